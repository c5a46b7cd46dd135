"""What the benchmarks on features compare with: content-kNN, BM25, classifiers of pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

# Okapi BM25's usual ones (Robertson and Zaragoza, 2009).
K1, B = 1.2, 0.75


def tf_idf(rows: Sequence[Sequence[str]]) -> sp.csr_array:
    """Rows of words -> rows of length 1, by ``(1 + ln count) * ln(rows / rows with it)``."""
    counts, _ = counted(rows)
    with_it = np.bincount(counts.indices, minlength=counts.shape[1])
    rarity = np.log(len(rows) / np.maximum(with_it, 1))
    counts.data = (1 + np.log(counts.data)) * rarity[counts.indices]
    lengths = np.sqrt(np.asarray(counts.multiply(counts).sum(1)).ravel())
    scaled: sp.csr_array = (sp.diags_array(1 / np.maximum(lengths, 1e-12)) @ counts).tocsr()
    return scaled


def counted(rows: Sequence[Sequence[str]]) -> tuple[sp.csr_array, dict[str, int]]:
    """How often each row has each word, and the words' columns."""
    columns: dict[str, int] = {}
    places = [columns.setdefault(word, len(columns)) for row in rows for word in row]
    owners = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    shape = (len(rows), len(columns))
    counts = sp.coo_array((np.ones(len(places)), (owners, places)), shape).tocsr()
    counts.sum_duplicates()
    return counts, columns


class BM25:
    """Okapi BM25 over texts; of rarity ``ln(1 + (N - n + 1/2) / (n + 1/2))``, as in Lucene.

    Args:
        stems: whether endings of English plurals and -ing are cut off words.
    """

    def __init__(self, texts: Sequence[str], *, stems: bool = False) -> None:
        self.stems = stems
        counts, self.columns = counted([self.words(text) for text in texts])
        with_it = np.bincount(counts.indices, minlength=counts.shape[1])
        rarity = np.log(1 + (len(texts) - with_it + 0.5) / (with_it + 0.5))
        lengths = np.asarray(counts.sum(1)).ravel()
        long = 1 - B + B * lengths / lengths.mean()
        tf = counts.data
        owners = np.repeat(np.arange(len(texts)), np.diff(counts.indptr))
        counts.data = rarity[counts.indices] * tf * (K1 + 1) / (tf + K1 * long[owners])
        self._by_word = counts.T.tocsr()

    def words(self, text: str) -> list[str]:
        found = re.findall(r"\w+", text.lower())
        return [re.sub(r"(es|s|ing)$", "", w) for w in found] if self.stems else found

    def scores(self, queries: Sequence[str]) -> np.ndarray:
        """(Q, texts) scores, of each word as often as the query has it."""
        every = [[self.columns[w] for w in self.words(q) if w in self.columns] for q in queries]
        owners = np.repeat(np.arange(len(queries)), [len(each) for each in every])
        places = np.array([word for each in every for word in each], np.int64)
        shape = (len(queries), len(self.columns))
        asked = sp.coo_array((np.ones(len(places)), (owners, places)), shape).tocsr()
        found: np.ndarray = (asked @ self._by_word).toarray()
        return found
