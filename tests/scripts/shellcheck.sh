#!/usr/bin/env bash
# Runs shellcheck over every shell text of the tree: scripts, templates, and all that the recipes render to.
# shellcheck source=tests/scripts/common.sh
. "$(dirname "$0")/common.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

shellcheck --external-sources tests/scripts/*.sh tests/fuzz/*.sh .ci/run .ci/install
shellcheck --shell=sh templates/*.sh
shellcheck --shell=bash templates/*.bash

# SC2016: values of parameters arrive in single quotes, dollar signs and all; that is the point.
check() { shellcheck --exclude=SC2016 "$@"; }
rendered=0 steps=0 listed=0
for recipe in recipes/*/; do
    name=$(basename "$recipe")
    "$bake" render "$name" --output "$work/$name" >/dev/null
    while IFS= read -r -d '' file; do
        # As the runner does: a first line names the interpreter; a step without one is for sh. Other files of a recipe
        # are scripts only if they say so.
        case ${file#"$work/$name/"} in
            files/* | *.bundle/* | *.env | user-data.sh) step=0 ;;
            *) step=1 ;;
        esac
        case $step:$(head -c 100 "$file" | tr -d '\0' | head -n 1) in
            *:'#!/bin/sh'* | *:'#!/bin/bash'* | *:'#!/usr/bin/env bash'*) check "$file" ;;
            *:'#!'* | 0:*) continue ;;
            1:*) check --shell=sh "$file" ;;
        esac
        rendered=$((rendered + 1)) steps=$((steps + step))
    done < <(find "$work/$name" -type f -print0 | sort -z)
    # The lists that the runner works through say how many there are.
    lists=("$work/$name"/builder.bundle/{steps,validate} "$work/$name/tester.bundle/test")
    listed=$((listed + $(cat "${lists[@]}" | wc -l)))
    if [ "$steps" -eq 0 ] || [ "$steps" -ne "$listed" ]; then
        die "$name: of $listed steps so far $steps were checked"
    fi
done
echo "shellcheck: no findings; $rendered of the texts came out of recipes, $steps of them steps"
