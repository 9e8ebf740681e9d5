#!/usr/bin/env bash
# Install what the page's tests need, a headless Chromium: Debian's package where we are root and
# there is one, else playwright's own in the home folder. Does nothing where one starts already.
#
#   tools/install_browser.sh       ends with 0 and the browser's version, or with 1 and one line
#
# Without root and without network there is none; the page's tests are then skipped.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

starts() { "$python" tests/shared/chromium.py 2>>"$log"; }

from_debian() {
    [ "$(id -u)" = 0 ] && command -v apt-get || return
    local options=(-q -y -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=120)
    export DEBIAN_FRONTEND=noninteractive
    timeout 120 apt-get "${options[@]}" update
    timeout 600 apt-get "${options[@]}" install --no-install-recommends chromium
}

from_playwright() {
    local system=()
    if [ "$(id -u)" = 0 ] && command -v apt-get; then system=(--with-deps); fi
    timeout 600 "$python" -m playwright install "${system[@]}" chromium
}

starts && exit
from_debian >>"$log" 2>&1 && starts && exit
from_playwright >>"$log" 2>&1 && starts && exit
reason=$(grep -m 1 -iE 'error|fail|unable|no module|no playwright|not found' "$log" | sed 's/^ *//')
echo "no Chromium could be installed (${reason:-$(tail -n 1 "$log")}); install one by hand, or go on: the page's tests are skipped" >&2
exit 1
