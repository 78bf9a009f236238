# cutout on the processor.
#
#   docker build -t cutout .
#   docker build -t cutout --build-arg MODELS="u2net isnet-general-use" .      with further models inside
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" cutout remove photos -o cut

FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY . .
# hadolint ignore=DL3013
RUN python -m venv --without-pip /opt/cutout \
    && pip --python /opt/cutout/bin/python install --no-cache-dir ".[cpu,heif]"

FROM python:3.12-slim-bookworm
ENV PATH=/opt/cutout/bin:$PATH \
    CUTOUT_HOME=/var/lib/cutout \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/cutout /opt/cutout
# the folder is open to whoever the container runs as: it keeps what is made ready for this processor
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin cutout \
    && install -d -m 1777 /var/lib/cutout \
    && install -d -o cutout -g cutout /work
USER 10001
ARG MODELS=""
RUN for model in $MODELS; do cutout models pull "$model" || exit 1; done
WORKDIR /work
ENTRYPOINT ["cutout"]
CMD ["--help"]
