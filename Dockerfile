# The service, on a CPU: docker build -t shala-audio . && docker run -p 8000:8000 shala-audio
# Of Debian and PyPI alone. PyPI's torch brings CUDA along: --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu leaves it
# out, and makes the image some gigabytes smaller.
FROM debian:bookworm-slim AS wheel
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv
COPY pyproject.toml README.md LICENSE /src/
COPY configs /src/configs
COPY shala_audio /src/shala_audio
RUN python3 -m venv /env && /env/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheel /src

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv ffmpeg \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home shala
COPY --from=wheel /wheel /wheel
COPY constraints.txt /wheel/
ARG PIP_EXTRA_INDEX_URL=
RUN python3 -m venv /opt/shala \
    && /opt/shala/bin/pip install --no-cache-dir -c /wheel/constraints.txt "$(ls /wheel/*.whl)[serve]"

USER shala
ENV PATH=/opt/shala/bin:$PATH
# Models are fetched now, so that the service needs no network.
RUN shala-audio models pull
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python3", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health')"]
CMD ["shala-audio", "serve", "default", "--host", "0.0.0.0", "--port", "8000"]
