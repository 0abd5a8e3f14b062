#!/usr/bin/env bash
# Tells the whole story on real machines: an image, a fleet, a roll in the middle of jobs, a bad image, and home.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

[ "$(id -u)" -eq 0 ] || die "the local cloud runs real machines and needs root: run \`sudo -E make demo\`"
export PIAAS_CLOUD=local
recipe=ci-worker

say "checking this host"
"$bake" doctor --fix
say "the story: about six minutes"
"$buildbot/bin/python" -B tests/story/demo.py --binary "$bake" --buildbot "$buildbot" --picture "$target/demo/timeline.svg"
say "the image that stays"
"$bake" images show "$recipe"

shown=${bake#"$PWD"/}
next() { printf '  %-58s %s\n' "$1" "${2-}" >&2; } # command, what it does
printf '\nNext:\n' >&2
next 'make demo-vm' 'boot the same disk in QEMU, by UEFI, and test it there'
next "$shown plan $recipe" 'what a bake would do now: nothing'
next "$shown bake $recipe --set master_host=ci.example.org"
next "$shown why $recipe" 'what makes two images differ'
next "$shown init my-worker --from $recipe" 'a recipe of your own'
next "$shown cloud serve" 'then: aws --endpoint-url http://127.0.0.1:4599 ec2 describe-images'
