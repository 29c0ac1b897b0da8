# The broker itself as an image. `make docker` builds the wheels and this; by hand, after `make wheels`:
#
#   docker build --build-arg BASE=debian:bookworm-slim -t agent-broker .
#   docker run --rm -v broker-state:/var/lib/broker agent-broker init
#   docker run -v broker-state:/var/lib/broker -v /run/docker.sock:/run/docker.sock --group-add "$(stat -c %g /run/docker.sock)" \
#       --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges -p 7443:7443 agent-broker
#
# Whoever may use the engine's socket rules the engine's host: give it to the broker alone.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
# A base that has Python already needs no network, here or below.
RUN python3 -c 'import venv, ensurepip' 2>/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3 python3-venv; }
COPY requirements-run.lock /wheels/
COPY build/wheels /wheels/
RUN python3 -m venv /opt/broker \
    && /opt/broker/bin/python -m pip install --no-cache-dir --no-index --find-links /wheels --require-hashes --no-deps \
        -r /wheels/requirements-run.lock
COPY build/project /project/
RUN /opt/broker/bin/python -m pip install --no-cache-dir --no-index --no-deps /project/*.whl \
    && /opt/broker/bin/python -m pip uninstall -y pip setuptools

FROM ${BASE}
RUN python3 --version 2>/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*; }
COPY --from=build /opt/broker /opt/broker
RUN install -d -o 10001 -g 10001 -m 0700 /var/lib/broker
ENV PATH=/opt/broker/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/var/lib/broker \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    BROKER_STATE=/var/lib/broker/state \
    BROKER_LISTEN=0.0.0.0:7443
USER 10001:10001
WORKDIR /var/lib/broker
VOLUME /var/lib/broker
# Mutual TLS: reachable from outside the container, and by nobody without a certificate.
EXPOSE 7443
# The running broker completes a TLS handshake with the certificate of its state directory.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["broker", "doctor", "--only", "running", "--expect-running"]
ENTRYPOINT ["broker"]
CMD ["serve"]
