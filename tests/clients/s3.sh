#!/bin/sh
# The AWS CLI makes a bucket, copies files there and back, lists, presigns and removes.
set -eu

bucket=cli-$(head -c 8 /dev/urandom | od -An -tx1 | tr -d ' \n')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

aws s3 mb "s3://$bucket"
aws s3 ls | grep -q "$bucket"
head -c 3000 /dev/urandom >"$work/small"
# Above 8 MB the CLI goes in parts.
head -c 20000000 /dev/urandom >"$work/large"
aws s3 cp --no-progress "$work/small" "s3://$bucket/dir/small"
aws s3 cp --no-progress "$work/large" "s3://$bucket/large"
mkdir "$work/back"
aws s3 sync --no-progress "s3://$bucket" "$work/back"
cmp "$work/small" "$work/back/dir/small"
cmp "$work/large" "$work/back/large"
printf 'piped' | aws s3 cp - "s3://$bucket/piped"
[ "$(aws s3 cp "s3://$bucket/piped" -)" = piped ]
aws s3api head-object --bucket "$bucket" --key large --query ETag --output text | grep -q -- '-[23]"$'
aws s3 ls "s3://$bucket" | grep -q 'PRE dir/'
url=$(aws s3 presign "s3://$bucket/dir/small" --expires-in 60)
python3 -c 'import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())' "$url" |
    cmp - "$work/small"
aws s3 rm --recursive "s3://$bucket"
aws s3 rb "s3://$bucket"
if aws s3api head-bucket --bucket "$bucket" 2>/dev/null; then
    echo "$bucket is still there" >&2
    exit 1
fi
