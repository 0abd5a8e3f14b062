#!/usr/bin/env bash
# Bakes the CI worker on the local cloud, boots the image and shows its service.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

[ "$(id -u)" -eq 0 ] || die "the local cloud runs real machines and needs root: run \`sudo -E make demo\`"
export PIAAS_CLOUD=local
recipe=ci-worker

say "checking this host"
"$bake" doctor --fix
say "baking $recipe"
"$bake" bake "$recipe"
say "booting the image: its worker's service"
# shellcheck disable=SC2016 # for the machine's shell
"$bake" cloud run "$recipe" -- sh -c '
    unit=buildbot-worker@ci.service
    systemctl is-system-running --wait
    systemctl --no-pager --lines=0 status "$unit"
    until journalctl --unit="$unit" --boot --output=cat | grep "^worker: "; do
        systemctl is-active --quiet "$unit"
        sleep 1
    done'
say "the image"
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
