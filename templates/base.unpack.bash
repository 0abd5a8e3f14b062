# Fills the new root of a base image with packages and configures them, as a hook of mmdebstrap, in bash:
#   $1 the root   $2 a directory aside   $3… the packages that are asked for
# dpkg unpacks one package after the other, and mmdebstrap has it unpack the essential ones that it has unpacked before.
# Here all are unpacked at once, on all cores, and written down as dpkg writes down what it has unpacked (deb(5),
# dpkg(1), deb-triggers(5)). Configuring them is dpkg's own. The initial ram disk is made once.
set -euo pipefail
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" LC_ALL=C.UTF-8
root=$1 aside=$2
shift 2
db=$root/var/lib/dpkg
work=$aside/work
mkdir "$work" "$work/control" "$work/status"

# What mmdebstrap would choose: what the suite calls essential and required, then what is asked for.
narrow='?narrow(?or(?archive(^bookworm$),?codename(^bookworm$)),?architecture(amd64),'
essential="$narrow?essential)"
required="$narrow?and(?priority(required),?not(?essential)))"
apt-get --simulate install "$essential" | sed -n 's/^Inst \([^ ]*\) .*/\1/p' | sort >"$work/essential"
apt list "$required" 2>/dev/null | sed -n 's,/.*,,p' >"$work/required"
apt-get --yes --quiet --download-only install "$essential" "$required" "$@" >&2

# Some packages, one after the other, in a process of its own.
cat >"$work/unpack" <<'EACH'
set -euo pipefail
root=$1 work=$2
shift 2
for deb; do
    # apt names them PACKAGE_VERSION_ARCHITECTURE.deb.
    name=${deb##*/}
    name=${name%%_*}
    control=$work/control/$name
    dpkg-deb --control "$deb" "$control"
    architecture='' multi='' status=''
    while IFS= read -r line; do
        case $line in
            Architecture:*) architecture=${line#*: } ;;
            Multi-Arch:*) multi=${line#*: } ;;
        esac
        status+=$line$'\n'
        [ "${line%%:*}" != Package ] || status+=$'Status: install ok unpacked\n'
    done <"$control/control"
    if [ "$multi" = same ]; then
        mv "$control" "$control:$architecture"
        name=$name:$architecture control=$control:$architecture
    fi
    # Two words for the file's mode and owner, its size, date and time, then its name and where a link leads.
    dpkg-deb --fsys-tarfile "$deb" |
        tar --directory "$root" --extract --numeric-owner --keep-directory-symlink -vv --quoting-style=literal |
        awk -v directories="$work/directories.$BASHPID" -v others="$work/others.$BASHPID" '{
            mode = $1; owner = $2; type = substr($1, 1, 1)
            sub(/^[^ ]+ +[^ ]+ +[^ ]+ +[^ ]+ +[^ ]+ /, "")
            if (type == "l") sub(/ -> .*/, "")
            if (type == "h") sub(/ link to .*/, "")
            sub(/^\./, "")
            if (type == "d") sub(/\/$/, "")
            print $0 == "" ? "/." : $0
            # The name that it really has: /lib is a link.
            if ($0 ~ /^\/(bin|sbin|lib|lib64)\//) $0 = "/usr" $0
            if (type == "d") print mode, owner, $0 >>directories
            else print >>others
        }' >"$root/var/lib/dpkg/info/$name.list"
    conffiles=()
    if [ -e "$control/conffiles" ]; then
        while IFS= read -r file; do
            [[ $file != /* ]] || conffiles+=("$file")
        done <"$control/conffiles"
    fi
    {
        printf %s "$status"
        if [ ${#conffiles[@]} -gt 0 ]; then
            echo Conffiles:
            (cd "$root" && md5sum -- "${conffiles[@]#/}") | while read -r sum file; do echo " /$file $sum"; done
        fi
        echo
    } >"$work/status/$name"
done
EACH
mkdir -p "$db/info" "$db/triggers"
find "$root/var/cache/apt/archives" -maxdepth 1 -name '*.deb' -print0 | sort -z |
    xargs -0 -P "$(nproc)" -n 6 bash "$work/unpack" "$root" "$work"

# By the names that dpkg gives them.
find "$work/control" -mindepth 2 -type f ! -name control -printf '%P\0' |
    tar --create --directory "$work/control" --null --files-from=- --transform='s,/,.,' |
    tar --extract --directory "$db/info" --same-permissions

# Who came first must not matter: nothing is in two packages, and a directory that is looks the same in both.
twice=$(cat "$work"/others.* | sort | uniq -d | head -n 5)
apart=$(sort -u "$work"/directories.* | cut -d ' ' -f 3- | sort | uniq -d | head -n 5)
if [ -n "$twice$apart" ]; then
    printf 'E: in more than one package, and not the same in each: %s\n' "$twice $apart" >&2
    exit 1
fi
find "$root" -xdev -type d -print0 | xargs -0 touch

# In a mount namespace of its own, so that nothing stays mounted whatever becomes of this.
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"

cat "$work"/status/* >"$db/status"
for file in "$db"/info/*.triggers; do
    name=${file##*/} name=${name%.triggers}
    while read -r what trigger _; do
        case $what in
            interest | interest-await) how= ;;
            interest-noawait) how=/noawait ;;
            *) continue ;;
        esac
        case $trigger in
            /*) printf '%s %s%s\n' "$trigger" "$name" "$how" >>"$db/triggers/File" ;;
            *) printf '%s%s\n' "$name" "$how" >>"$db/triggers/$trigger" ;;
        esac
    done <"$file"
done

inside() { chroot "$root" env --unset=APT_CONFIG --unset=TMPDIR DEBIAN_FRONTEND=noninteractive "$@" >&2; }
# The first one makes the users.
for script in base-passwd.preinst $(cd "$db/info" && printf '%s\n' *.preinst | grep -vx base-passwd.preinst); do
    name=${script%.preinst}
    package=${name%%:*}
    inside DEBCONF_PACKAGE="$package" PERL_DL_NONLAZY=1 DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE="$package" \
        DPKG_MAINTSCRIPT_ARCH=amd64 DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= \
        "/var/lib/dpkg/info/$script" install
done
if [ -s "$db/diversions" ]; then
    printf 'E: a package diverts files before it is unpacked: %s\n' "$(head -n 3 "$db/diversions")" >&2
    exit 1
fi
# These take their time and nothing of an initial ram disk is theirs, so that is made beside them.
later=" ca-certificates curl libpam-systemd openssh-client openssh-server openssh-sftp-server openssl "
early=()
while read -r package; do
    [[ $later == *" $package "* ]] || early+=("$package")
done < <(sed -n 's/^Package: //p' "$db/status")
inside dpkg --force-depends --configure "${early[@]}"
ramdisk() {
    for kernel in "$root"/boot/vmlinuz-*; do
        version=${kernel##*/vmlinuz-}
        # The level of zstd: more of it takes longer than the kernel saves by it.
        inside env --unset=INITRD COMPRESSLEVEL=1 update-initramfs -c -k "$version"
        inside env --unset=INITRD linux-update-symlinks install "$version" "/boot/vmlinuz-$version"
    done
}
ramdisk &
making=$!
# Whatever fails below: it would go on in what is removed then.
trap 'wait "$making" || :' EXIT
inside dpkg --force-depends --configure --pending

# The others came because one of these wants them (apt-mark(8)).
printf '%s\n' "$@" | sort -u "$work/essential" "$work/required" - >"$work/asked"
sed -n 's/^Package: //p' "$db/status" | sort | comm -23 - "$work/asked" | inside xargs apt-mark --quiet auto
trap - EXIT
wait "$making"
