#!/bin/bash
#
# guest.sh - the freestanding test guest on an ordinary KVM
#
# The suite in tests/guest runs wherever there is a /dev/kvm. Some of those (the PVM type) end level interrupts by
# themselves or run ring 0 by emulation; here the same guest meets SVM, exact interrupts and a HyperTransport hole. One
# L1, and a check for every case of the suite, with fewer of the random accesses: an exit costs ten times as much. What
# is the same on every KVM, the control socket, programs that are started and back-ends that answer wrongly, stays outside.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

suite()
{
	OUTBOARD_BUILD=$build OUTBOARD_CHAOS=20000 OUTBOARD_DEADLINE=300 \
		/usr/bin/pytest-3 -p no:cacheprovider --ignore-glob='*/test_api.py' \
		--ignore-glob='*/test_backends.py' --ignore-glob='*/test_programs.py' "$@" "$tree/tests/guest"
}

if lab_outside; then
	suite --collect-only -q >"$work/collected" || true
	sed -n 's/^.*\(test_[a-z]*\.py::\)/\1/p' "$work/collected" >"$work/names"
	[ -s "$work/names" ] || die "no cases in tests/guest: $(tail -n 1 "$work/collected")"
	lab_plan "$(wc -l <"$work/names")"
	# Memory is lent, not used; but L1 lends no more than it has. One CPU: with two the emulator lets a guest of
	# two CPUs die about once in 300 resets, with one it did not in 1500.
	lab_boot --cpus 1 --memory 6144 --timeout 1200
fi
planned=$(wc -l <"$work/names")

# verdict NAME: the word behind the case's name in the suite's report, the last one, as a case may fail after it passed;
# none for a case that did not run.
verdict()
{
	awk -v name="$1" '
		{ at = index($0, name " "); split(substr($0, at + length(name) + 1), word, " ") }
		at && word[1] ~ /^(PASSED|SKIPPED|FAILED|ERROR)$/ { last = word[1] }
		END { print last }' "$work/suite"
}

suite -v --tb=short >"$work/suite" 2>&1
while IFS= read -r name; do
	case $(verdict "$name") in
	PASSED) ok "$name" ;;
	SKIPPED) skip "$name" "see its test for the reason" ;;
	FAILED | ERROR) not_ok "$name" ;;
	esac
done <"$work/names"
# The reasons of all failures, once, and what ended a suite that did not come to its end.
[ $cases = "$planned" ] || tail -n 30 "$work/suite" | sed 's/^/# /'
sed -n '/^=* \(FAILURES\|ERRORS\) =*$/,$s/^/# /p' "$work/suite"
lab_done
