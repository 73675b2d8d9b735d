#!/bin/sh
# On a machine of tests, as root on Debian: a Chromium that opens the built pages. Where none can be had, their tests say so and skip.
for name in chromium chromium-browser google-chrome; do
    command -v $name >/dev/null && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; } >/dev/null 2>&1 ||
        echo "no Chromium could be installed: the built pages are not opened"
fi
exit 0
