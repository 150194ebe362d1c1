# Triton with the engine, for a CPU (tritonserver from its PyPI wheel) or a GPU (NVIDIA's image).
# Build from the root: docker build -f services/generator/triton.Dockerfile --target cpu -t gmem-triton .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:25.06-py3

FROM ${PYTHON_IMAGE} AS build
ARG PIP_FIND_LINKS
ARG PIP_TRUSTED_HOST
ARG TORCH_INDEX_URL
ENV PATH=/opt/gmem/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/gmem
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY requirements requirements
COPY tools tools
RUN python tools/install.py --dependencies triton,tracing
COPY shared shared
COPY services services
RUN pip install --quiet --no-deps .

FROM ${PYTHON_IMAGE} AS cpu
LABEL org.opencontainers.image.title="gmem-triton" \
      org.opencontainers.image.description="Triton Inference Server with the engine, on a CPU" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/gmem /opt/gmem
COPY services/generator/model_repository /opt/model_repository
RUN useradd --uid 10001 --user-group --home-dir /var/lib/gmem --create-home gmem
ENV PATH=/opt/gmem/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    GMEM_LOG__JSON_LINES=true GMEM_TRITON__HOST=0.0.0.0 GMEM_STORE__CACHE_DIR=/var/lib/gmem/cache \
    GMEM_TRITON__RUNTIME_DIR=/var/lib/gmem/triton \
    GMEM_TRITON__MODEL_REPOSITORY=/opt/model_repository
USER 10001:10001
WORKDIR /var/lib/gmem
VOLUME /var/lib/gmem
EXPOSE 8200 8201 8202
HEALTHCHECK --interval=5s --timeout=15s --start-period=60s --retries=20 \
    CMD ["gmem", "triton", "probe"]
ENTRYPOINT ["gmem"]
CMD ["triton", "serve"]

# On NVIDIA's image: its server and its Python, with PyTorch's CUDA build beside them. PyPI's needs
# driver 580 or newer; for older ones --build-arg TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126
FROM ${TRITON_IMAGE} AS gpu
ARG TORCH_INDEX_URL=https://pypi.org/simple
LABEL org.opencontainers.image.title="gmem-triton" \
      org.opencontainers.image.description="Triton Inference Server with the engine, on a GPU" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/gmem/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* && python3 -m venv /opt/gmem
WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY requirements requirements
COPY tools tools
RUN python tools/install.py --dependencies triton-nvidia,tracing
COPY shared shared
COPY services services
RUN pip install --quiet --no-deps .
COPY services/generator/model_repository /opt/model_repository
RUN useradd --uid 10001 --user-group --home-dir /var/lib/gmem --create-home gmem
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 GMEM_LOG__JSON_LINES=true \
    GMEM_TRITON__SERVER_DIR=/opt/tritonserver GMEM_TRITON__HOST=0.0.0.0 GMEM_STORE__CACHE_DIR=/var/lib/gmem/cache \
    GMEM_TRITON__RUNTIME_DIR=/var/lib/gmem/triton \
    GMEM_TRITON__MODEL_REPOSITORY=/opt/model_repository \
    TORCHINDUCTOR_CACHE_DIR=/var/lib/gmem/inductor TRITON_CACHE_DIR=/var/lib/gmem/kernels
USER 10001:10001
WORKDIR /var/lib/gmem
VOLUME /var/lib/gmem
EXPOSE 8200 8201 8202
# Loading and compiling an XL network takes minutes.
HEALTHCHECK --interval=5s --timeout=15s --start-period=1800s --retries=20 \
    CMD ["gmem", "triton", "probe"]
ENTRYPOINT ["gmem"]
CMD ["triton", "serve"]
