# Fetches the bundle from S3 into DIR with what the machine has. The URL opens the object to whoever has it, so nobody prints
# it.
set -eu
dir='@DIR@' url='@URL@'
umask 077
mkdir -p "$dir"
cd "$dir"
rm -rf parts
if command -v curl >/dev/null; then
    with=curl
    printf 'url = "%s"\n' "$url" | curl --config - --silent --show-error --fail --retry 5 --output bundle.tar.gz || with="$with: exit code $?"
elif command -v wget >/dev/null; then
    with=wget
    wget -q -O bundle.tar.gz "$url" || with="$with: exit code $?"
elif command -v python3 >/dev/null; then
    with=python3
    PIAAS_URL=$url python3 -c '
import os, shutil, sys, urllib.request
try:
    with urllib.request.urlopen(os.environ["PIAAS_URL"], timeout=60) as answer, open("bundle.tar.gz", "wb") as file:
        shutil.copyfileobj(answer, file)
except OSError as error:
    sys.exit(str(error))' || with="$with: exit code $?"
else
    echo 'this machine has none of curl, wget and python3 to fetch the bundle from S3 with; put one into its base image, or bake without bundle_bucket' >&2
    exit 1
fi
case $with in
*:*)
    echo "the bundle could not be fetched from S3 ($with); the machine needs a way to S3: a NAT gateway, or a gateway endpoint" >&2
    exit 1
    ;;
esac
