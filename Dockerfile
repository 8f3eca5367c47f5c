# unimo without a GPU: docker build -t unimo . && docker run -p 8000:8000 -v "$PWD/runs:/home/unimo/runs:ro" unimo serve --host 0.0.0.0
FROM python:3.12-slim
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml README.md ./
COPY unimo unimo
RUN pip install --no-cache-dir ".[serve,index]" && useradd --create-home unimo
USER unimo
WORKDIR /home/unimo
EXPOSE 8000
ENTRYPOINT ["unimo"]
CMD ["serve", "--host", "0.0.0.0"]
