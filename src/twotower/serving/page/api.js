// The service's routes. The key lives in this module's memory and nowhere else.
let key = "";

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export function useKey(given) { key = given.trim(); }

export async function ask(path, body, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  let reply;
  try {
    reply = await fetch(path, {
      method: body ? "POST" : "GET", body: body && JSON.stringify(body), headers, signal, credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service does not answer.");
  }
  const told = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Refused(reply.status, told.error || `The service answered ${reply.status}.`);
  return told;
}

// What is asked again and again: after a short rest, and only the last answer counts.
export function lastOf(wait, work, fail) {
  let timer, aborter;
  return (...given) => {
    clearTimeout(timer);
    aborter?.abort();
    const own = aborter = new AbortController();
    timer = setTimeout(async () => {
      try {
        await work(own.signal, ...given);
      } catch (error) {
        if (error.name !== "AbortError" && !own.signal.aborted) fail(error);
      }
    }, wait);
  };
}
