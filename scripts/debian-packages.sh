#!/usr/bin/env bash
# Installs the Debian packages whose real parts the tests talk to, without starting their services.
set -euo pipefail
packages=(
  curl                  # the tours are curl commands
  mosquitto             # the broker that MQTT ingest is measured against
  mosquitto-clients     # mosquitto_pub and mosquitto_sub
  libcoap3-bin          # coap-client, with OpenSSL and with GnuTLS
  rabbitmq-server       # a broker whose shovels speak AMQP 1.0
  prometheus            # scrapes /metrics; brings promtool
  redis-server          # values of devices are pushed there
  mariadb-server        # and there
  iproute2              # network namespaces for cut links
  libfaketime           # clocks that jump
  containerd            # the container runtime that edge nodes are tested with
  runc                  # which starts its containers
  containernetworking-plugins   # and its networks
  iptables              # which need rules for ports and masquerading
  busybox-static        # what the containers of the tests run
  dbus                  # Bluetooth tests have a bus of their own
  chromium              # the console is tested in a browser
  systemd               # systemd-analyze judges the units of deploy/
  gcc libc6-dev libssl-dev libsasl2-dev pkg-config python3-dev python3-venv   # python-qpid-proton with TLS
)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null 2>&1; then
  echo "Tests need these programs, and this is not Debian: ${missing[*]}" >&2
  exit 1
fi
root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null 2>&1 || { echo "As root: apt-get install ${missing[*]}" >&2; exit 1; }
  root=(sudo)
fi
echo "Installing Debian packages for the tests (services are not started): ${missing[*]}"
# A policy that says 'not now' keeps packages from starting their daemons, mosquitto on 1883 for one.
policy=/usr/sbin/policy-rc.d
made_policy=
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
  "${root[@]}" chmod +x "$policy"
  made_policy=1
fi
trap '[ -z "$made_policy" ] || "${root[@]}" rm -f "$policy"' EXIT
"${root[@]}" apt-get update -qq
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
