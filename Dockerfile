# unimo without a GPU, reached from this machine alone:
#   docker build -t unimo .
#   docker run -p 127.0.0.1:8000:8000 -v "$PWD/runs:/home/unimo/runs:ro" unimo
FROM python:3.12-slim
RUN pip install --no-cache-dir "torch>=2.11,<2.14" --index-url https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml README.md ./
COPY unimo unimo
RUN pip install --no-cache-dir ".[serve,index]" && useradd --create-home unimo
USER unimo
WORKDIR /home/unimo
EXPOSE 8000
ENTRYPOINT ["unimo"]
# All addresses of the container, not of the machine: which of those are published says -p.
CMD ["serve", "--host", "0.0.0.0"]
