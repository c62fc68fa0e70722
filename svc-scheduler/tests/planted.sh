#!/usr/bin/env bash
# Plants each bug of the folder beside this file, one at a time, and expects the tests of the domain, its
# random histories among them, to find it. Names those that they do not find, and fails then.
# CARGO: what to call instead of cargo. Arguments: names of patches; none: all.
set -euo pipefail
cd "$(git -C "$(dirname "$0")" rev-parse --show-toplevel)"
cargo=${CARGO:-cargo}
folder=svc-scheduler/tests/planted

if [ -n "$(git status --porcelain svc-scheduler/src)" ]; then
    echo "svc-scheduler/src has changes: commit them first, since each patch is taken back by its reverse" >&2
    exit 2
fi
planted=
trap 'if [ -n "$planted" ]; then git apply -R "$planted"; fi' EXIT

patches=("$folder"/*.patch)
if [ $# -gt 0 ]; then
    patches=("${@/#/$folder/}")
    patches=("${patches[@]/%/.patch}")
fi
missed=0
for patch in "${patches[@]}"; do
    git apply "$patch"
    planted=$patch
    name=$(basename "$patch" .patch)
    # What does not compile has not been found by a test.
    if ! "$cargo" test -q -p svc-scheduler --lib --no-run 2>/dev/null; then
        echo "BROKEN  $name does not compile"
        missed=$((missed + 1))
    elif PROPTEST_DISABLE_FAILURE_PERSISTENCE=true "$cargo" test -q -p svc-scheduler --lib domain:: >/dev/null 2>&1; then
        echo "MISSED  $name"
        missed=$((missed + 1))
    else
        echo "found   $name"
    fi
    git apply -R "$patch"
    planted=
done
echo "${#patches[@]} planted, $missed not found"
[ "$missed" -eq 0 ]
