# The demo and the command line on a CPU. For NVIDIA GPUs, whose image brings PyTorch:
#   docker build --build-arg BASE=nvcr.io/nvidia/pytorch:25.06-py3 -t tinyhd . && docker run --gpus all -p 7860:7860 tinyhd
ARG BASE=python:3.12-slim
FROM ${BASE}
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY tinyhd tinyhd
COPY demo demo
COPY examples examples
RUN pip install --no-cache-dir ".[demo]"
EXPOSE 7860
CMD ["python", "-m", "demo", "--host", "0.0.0.0"]
