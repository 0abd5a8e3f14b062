#!/usr/bin/env bash
# Installs what is missing for: build, test, fleet, bench, mkosi, vm, lint or fuzz. Says what; does nothing when nothing is missing.
# Packages that the local cloud itself needs are the business of `piaas-bake doctor --fix`.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

command -v cargo >/dev/null || die "cargo is not there: install Rust from https://rustup.rs"

for what in "${@:-build}"; do
    case $what in
        build) install_packages gcc libc6-dev ca-certificates ;;
        test)
            install_packages python3-venv curl wget e2fsprogs dosfstools gdisk shellcheck strace qemu-system-x86 ovmf
            python_environment "$venv" tests/scripts/requirements.txt
            python_environment "$buildbot" tests/scripts/buildbot.txt
            ;;
        fleet)
            install_packages python3-venv
            python_environment "$buildbot" tests/scripts/buildbot.txt
            ;;
        bench)
            install_packages python3-venv packer
            python_environment "$rival" tests/scripts/bench.txt
            ;;
        mkosi)
            install_packages mmdebstrap debian-archive-keyring
            if [ ! -x "$cache/mkosi/usr/bin/mkosi" ]; then
                say "making a root with mkosi of Debian's backports in $cache/mkosi"
                as_root rm -rf "$cache/mkosi"
                mirror='http://deb.debian.org/debian'
                as_root mmdebstrap --quiet --variant=apt --aptopt='APT::Install-Recommends "false"' \
                    --aptopt='APT::Default-Release "bookworm-backports"' \
                    --include=mkosi,systemd,systemd-container,systemd-boot,udev,bubblewrap,apt,debian-archive-keyring \
                    --include=dosfstools,e2fsprogs,mtools,python3-pefile,uidmap,cpio,zstd,kmod,fdisk,xz-utils \
                    bookworm "$cache/mkosi" "deb $mirror bookworm main" "deb $mirror bookworm-backports main"
            fi
            ;;
        vm) install_packages qemu-system-x86 ovmf ;;
        lint) install_packages python3-venv shellcheck ;;
        fuzz)
            install_packages g++
            # The library alone, 180 KB: its package asks for a whole clang, which nothing here needs.
            if [ ! -f "$cache/libfuzzer/usr/lib/llvm-14/lib/libFuzzer.a" ]; then
                say "fetching libFuzzer from the Debian package libfuzzer-14-dev"
                new=$(mktemp -d)
                fetch() { (cd "$new" && apt-get -q download libfuzzer-14-dev); }
                fetch || { as_root apt-get -q update && fetch; }
                mkdir -p "$cache/libfuzzer"
                dpkg-deb --extract "$new"/libfuzzer-14-dev_*.deb "$cache/libfuzzer"
                rm -rf "$new"
            fi
            ;;
        *) die "unknown group: $what (build, test, fleet, bench, mkosi, vm, lint or fuzz)" ;;
    esac
done
