# Prints, in base64 of gzip, which packages were installed since the list @BEFORE@ was written, or in another version:
#   package NAME VERSION OFFERED   OFFERED: the newest version that apt would take (priority 500 or more)
#   index SUITE PATH SHA256        an index that apt has read, its sha256 as the suite's release file has it
#   end
# Without such a package it prints nothing but "end". Without "end" it could not tell.
set -eu
export LC_ALL=C

installed() { dpkg-query --show --showformat='${db:Status-Abbrev}${Package} ${Version}\n' | sed -n 's/^ii *//p' | sort; }
if [ "${1-}" = before ]; then
    installed >'@BEFORE@.part'
    mv '@BEFORE@.part' '@BEFORE@'
    exit
fi

note() {
    [ -r '@BEFORE@' ]
    installed | comm -13 '@BEFORE@' - | cut -d ' ' -f 1 | sort -u >'@BEFORE@.new'
    if [ -s '@BEFORE@.new' ]; then
        # A version table has lines "     1.2-3 500", the installed version " *** 1.2-3 500", newest first.
        xargs apt-cache policy <'@BEFORE@.new' >'@BEFORE@.policy'
        awk '
            function tell() { if (name != "" && installed != "(none)") print "package", name, installed, (offered == "" ? installed : offered) }
            /^[^ ]+:$/ { tell(); name = substr($0, 1, length($0) - 1); installed = "(none)"; offered = ""; table = 0 }
            $1 == "Installed:" { installed = $2 }
            /^  Version table:/ { table = 1; next }
            table && /^( \*\*\*|    ) [^ ]+ -?[0-9]+$/ { if (offered == "" && $NF >= 500) offered = $(NF - 1) }
            END { tell() }' '@BEFORE@.policy'
        # shellcheck disable=SC2016 # for apt, not for the shell
        apt-get indextargets --format '$(URI) $(METAKEY) $(FILENAME)' 'Created-By: Packages' >'@BEFORE@.targets'
        while read -r uri key file; do
            # The files of a suite lie side by side, named by their URLs with "_" for "/".
            release=${file%"$(echo "$key" | tr / _)"*}InRelease
            [ -r "$release" ] || continue
            sum=$(awk -v key="$key" '/^[^ ]/ { on = /^SHA256:/ } on && $3 == key { print $1 }' "$release")
            [ -z "$sum" ] || echo "index ${uri%"$key"} $key $sum"
        done <'@BEFORE@.targets'
    fi
    echo end
}
note | gzip -9n | base64 -w 0
