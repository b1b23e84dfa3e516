# The page in a container, for others too.
#   docker build -t dogdepth .
#   docker run --rm -p 127.0.0.1:8000:8000 --read-only --tmpfs /tmp:size=4g --memory 6g --cap-drop ALL --security-opt no-new-privileges dogdepth
# Behind a proxy that speaks https:  docker run ... dogdepth serve --host 0.0.0.0 --name rooms.example.org --https
# Any other verb:                    docker run --rm -v "$PWD:/photos" --user "$(id -u)" dogdepth predict /photos/room.jpg --out /photos/out

FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/dogdepth
ENV PATH=/opt/dogdepth/bin:$PATH
COPY constraints.txt ./
COPY settings.ini setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY dogdepth dogdepth
# opencv-python needs libGL, which a slim image lacks. The headless build of the same version takes its place.
RUN pip install --no-cache-dir -c constraints.txt '.[web,heif]' \
 && pip uninstall -y opencv-python \
 && pip install --no-cache-dir --no-deps "$(sed -n 's/^opencv-python==/opencv-python-headless==/p' constraints.txt)"

FROM python:3.11-slim
COPY --from=build /opt/dogdepth /opt/dogdepth
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin dogdepth
# What visitors leave lies in /tmp while the server runs, and goes with it.
ENV PATH=/opt/dogdepth/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/api/items', timeout=4)"]
ENTRYPOINT ["dogdepth"]
CMD ["serve", "--host", "0.0.0.0"]
