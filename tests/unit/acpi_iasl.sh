#!/bin/sh
# acpi_iasl.sh ACPI_TEST - have iasl take apart every table that acpi_test writes, and put it
# together again. An error, a warning or a remark fails, and so does a table that comes out
# different. Without iasl it is skipped (77).
set -u
test=$1
command -v iasl >/dev/null || { echo "skipped: iasl is not installed"; exit 77; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
"$test" "$dir" || exit 1
cd "$dir" || exit 1
failed=0

complain()
{
	echo "$1:"
	cat log
	failed=1
}

# iasl puts its own name and version into the header (bytes 29 to 36 of 1...), and so another checksum (10).
same()
{
	cmp -l "$1" "$2" >log 2>&1
	grep -q EOF log && return 1
	awk '$1 != 10 && ($1 < 29 || $1 > 36) { bad = 1 } END { exit bad }' log
}

set -- *.aml
[ $# -ge 15 ] || { echo "acpi_test wrote $# tables, expected at least 15"; exit 1; }
for table; do
	name=${table%.aml}
	iasl -d "$table" >log 2>&1 || complain "iasl -d $table"
	grep -qiE 'error|warning|invalid|checksum' log && complain "iasl -d $table"
	[ -s "$name.dsl" ] || complain "iasl -d $table wrote nothing"
	# Of a data table, the disassembly tells about a wrong checksum.
	grep -iE 'incorrect checksum|should be|\*\*\*\* ' "$name.dsl" >log && complain "$name.dsl"
	iasl -oa -p "$name-again" "$name.dsl" >log 2>&1 || complain "iasl $name.dsl"
	case $name in
	*-DSDT) grep -q ' 0 Errors, 0 Warnings, 0 Remarks' log || complain "iasl $name.dsl" ;;
	esac
	same "$table" "$name-again.aml" || complain "$name is another after iasl"
done
[ $failed -eq 0 ] && echo "$# tables are fine"
exit $failed
