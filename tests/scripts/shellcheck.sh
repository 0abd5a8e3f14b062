#!/usr/bin/env bash
# Runs shellcheck over every shell text of the tree: scripts, templates, and all that the recipes render to.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

shellcheck --external-sources tests/scripts/*.sh tests/fuzz/*.sh .ci/run .ci/install
shellcheck --shell=sh templates/*.sh

rendered=0
for recipe in recipes/*/; do
    name=$(basename "$recipe")
    "$bake" render "$name" --output "$work/$name" >/dev/null
done
# SC2016: values of parameters arrive in single quotes, dollar signs and all; that is the point.
check() { shellcheck --exclude=SC2016 "$@"; }
while IFS= read -r -d '' file; do
    # A first line names the interpreter; a step without one is for sh. Other files of a recipe are not scripts.
    case $file:$(head -c 100 "$file" | tr -d '\0' | head -n 1) in
        *:'#!/bin/sh'* | *:'#!/bin/bash'* | *:'#!/usr/bin/env bash') check "$file" ;;
        *.sh:'#!'*) continue ;;
        *.sh:*) check --shell=sh "$file" ;;
        *) continue ;;
    esac
    rendered=$((rendered + 1))
done < <(find "$work" -type f -print0 | sort -z)
[ "$rendered" -gt 0 ] || die "the recipes rendered to no script"
echo "shellcheck: no findings; $rendered of the texts came out of recipes"
