#!/usr/bin/env bash
# Tells the whole story on real machines: an image, a fleet, a roll in the middle of jobs, a bad image, and home.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

[ "$(id -u)" -eq 0 ] || die "the local cloud runs real machines and needs root: run \`sudo -E make demo\`"
export PIAAS_CLOUD=local
recipe=ci-worker

say "checking this host"
"$bake" doctor --fix
say "the story: about five minutes, the first time"
"$buildbot/bin/python" -B tests/story/demo.py --binary "$bake" --buildbot "$buildbot" --picture "$target/demo/timeline.svg"
say "the image that stays"
"$bake" images show "$recipe"

cat >&2 <<EOT

Next:
  make demo-vm                             boot the same disk in QEMU, by UEFI
  $bake plan ci-worker                     what a bake would do now: nothing
  $bake bake ci-worker --set master_host=ci.example.org
  $bake why ci-worker                      what makes two images differ
  $bake cloud serve                        then: aws --endpoint-url http://127.0.0.1:4599 ec2 describe-images
  $bake init my-worker --from ci-worker    a recipe of your own
EOT
