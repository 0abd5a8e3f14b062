#!/usr/bin/env bash
# Boots the disk of the newest ci-worker image in QEMU, by UEFI, until it asks for a login on the serial console.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

export PIAAS_CLOUD=local
limit=${PIAAS_VM_TIMEOUT:-600}
work=$(mktemp -d "$target/demo-vm.XXXXXX")
vm=
clean() {
    [ -z "$vm" ] || kill "$vm" 2>/dev/null || true
    rm -rf "$work"
}
trap clean EXIT

say "exporting the disk"
"$bake" images export ci-worker --output "$work/disk.raw"
cp /usr/share/OVMF/OVMF_VARS.fd "$work/vars.fd"

# Emulation works everywhere, inside other virtual machines too. PIAAS_VM_ACCEL=kvm is faster where KVM is sound.
accel=${PIAAS_VM_ACCEL:-tcg}
say "booting with $accel, at most $limit s"
qemu-system-x86_64 -machine q35 -accel "$accel" -cpu max -smp 2 -m 2048 \
    -drive if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd \
    -drive if=pflash,format=raw,unit=1,file="$work/vars.fd" \
    -drive if=virtio,format=raw,snapshot=on,file="$work/disk.raw" \
    -nic none -display none -monitor none -serial file:"$work/console.log" &
vm=$!

started=$SECONDS
until grep -aq ' login:' "$work/console.log" 2>/dev/null; do
    kill -0 "$vm" 2>/dev/null || { tail -n 30 "$work/console.log"; die "QEMU ended before a login"; }
    [ $((SECONDS - started)) -lt "$limit" ] || { tail -n 30 "$work/console.log"; die "no login after $limit s"; }
    sleep 1
done
tail -n 15 "$work/console.log"
say "login after $((SECONDS - started)) s"
