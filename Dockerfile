# The service, with torch for the CPU: docker build -t twotower .
FROM python:3.12-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/twotower
ENV PATH=/opt/twotower/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
COPY constraints.txt ./
# torch first and alone: what the service does needs no CUDA, which would be 20 times as large.
RUN pip install -c constraints.txt --index-url $TORCH_INDEX torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install -c constraints.txt '.[serve,postgresql,ann]'

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin twotower
COPY --from=build /opt/twotower /opt/twotower
ENV PATH=/opt/twotower/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
# Ready means that a run is loaded and warm.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["twotower"]
CMD ["serve", "--help"]
