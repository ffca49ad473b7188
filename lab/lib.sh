# shellcheck shell=bash
#
# lib.sh - what the lab's scripts share: messages, the cache folder, installing what a machine lacks
#
# Sourced by lab/*, ./check and ./demo. The sourcing script may set `me` (its name in messages).
#
# The cache holds one folder per part (qemu, kernel-HASH, stock, busybox, initramfs-HASH). A part exists only when it is
# complete: it is built in a folder beside it and renamed. A lock per part keeps two runs from building it twice.

me=${me:-$(basename "$0")}
lab_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$(dirname "$lab_dir")
export tree

# The folder of downloads and builds; may be deleted at any time, `lab/setup` makes it again.
cache=${OUTBOARD_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/outboard}

say()
{
	printf '%s: %s\n' "$me" "$*" >&2
}

# die [-STATUS] MESSAGE: one line and the end; status 1 unless said otherwise.
die()
{
	local status=1

	case $1 in
	-[0-9]*) status=${1#-}; shift ;;
	esac
	say "$*"
	exit "$status"
}

# as_root COMMAND...: by sudo unless we are root already.
as_root()
{
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "need root or sudo for: $*"
	fi
}

# have THING: a command in PATH, or an absolute path (of a file or folder) that exists.
have()
{
	case $1 in
	/*) [ -e "$1" ] ;;
	*) command -v "$1" >/dev/null 2>&1 ;;
	esac
}

# need THING=PACKAGE...: installs the packages of the things that are missing; asks apt nothing when there are none.
need()
{
	local pair output missing=()

	for pair; do
		have "${pair%%=*}" || missing+=("${pair#*=}")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
	have apt-get || die "missing: ${missing[*]} (names of Debian packages; no apt-get here to install them)"
	say "installing ${missing[*]}"
	apt_lists "${missing[@]}"
	if ! output=$(as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
		-o Dpkg::Use-Pty=0 install "${missing[@]}" 2>&1); then
		printf '%s\n' "$output" >&2
		die "apt-get could not install ${missing[*]}"
	fi
}

# build_tree DIR OPTION...: configures DIR, anew or with other options, and compiles.
build_tree()
{
	local dir=$1

	shift
	if [ -f "$dir/build.ninja" ]; then
		[ $# = 0 ] || /usr/bin/meson configure "$dir" "$@" || return
	else
		# What a setup leaves that failed half-way would stop the next one.
		rm -rf "$dir"/meson-{private,info,logs}
		/usr/bin/meson setup "$dir" "$@" || return
	fi
	/usr/bin/meson compile -C "$dir"
}

# build_static DIR: the programs that an initramfs without libraries can run, in a build of its own.
build_static()
{
	[ -f "$1/build.ninja" ] ||
		/usr/bin/meson setup "$1" "$tree" -Dstatic=true -Dtests=false -Dbench=false -Dman=disabled || return
	/usr/bin/meson compile -C "$1" outboard outboard-device
}

# make_demo_guests STATIC DIR: the initramfs of each guest of ./demo, with Debian's own kernel's modules; STATIC is a
# build_static().
make_demo_guests()
{
	local programs=(--file "$1/src/outboard" --file "$1/src/outboard-device")

	# shellcheck disable=SC2086  # several words
	"$lab_dir/mkguest" --stock $demo_modules -- "$2/guest.cpio" "$lab_dir/demo-steps" &&
		"$lab_dir/mkguest" "${programs[@]}" --stock $demo_device_modules -- "$2/device.cpio" "$lab_dir/demo-device-steps" &&
		"$lab_dir/mkguest" --stock $demo_sibling_modules -- "$2/sibling.cpio" "$lab_dir/demo-sibling-steps"
}

# apt_lists PACKAGE...: makes sure that apt knows the packages, fetching its lists if not.
apt_lists()
{
	local package

	for package; do
		if [[ ! "$(apt-cache policy "$package" 2>/dev/null)" =~ Candidate:\ [^\(] ]]; then
			say "fetching apt's package lists"
			as_root apt-get -qq update >&2 || die "apt-get update failed"
			return
		fi
	done
}

# apt_mirror: the URL from which this machine gets Debian itself, as its apt configuration says it.
apt_mirror()
{
	local codename

	codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(SITE)' 'Created-By: Packages' |
		awk -v codename="$codename" '
			$2 == "main" && ($1 == codename || $1 ~ /^(old)*stable$|^testing$|^unstable$/) { print $3; exit }'
}

# take_lock FILE: waits for the lock; it is held until the script ends.
take_lock()
{
	local fd

	mkdir -p "$(dirname "$1")"
	exec {fd}>"$1"
	flock -n "$fd" || { say "waiting for another run that prepares $(basename "$1" .lock)"; flock "$fd"; }
}

# Modules of Debian's own kernel that the guests of ./demo need: the one with a GPIO card, the one that serves another,
# and that other one.
demo_modules='gpio-regmap gpio-idio-16 gpio-pci-idio-16 virtio_blk ext4 nvme'
demo_device_modules='virtio-iommu vfio_iommu_type1 vfio-pci'
demo_sibling_modules='virtio_blk'
# Packages of trixie that make the part called peers.
peers=(virtiofsd qemu-utils qemu-block-extra fio passt)

# kernel_dir, stock_dir, ...: where a part is (or will be) in the cache.
kernel_dir() { printf '%s/kernel-%s' "$cache" "$(sha256sum <"$lab_dir/kernel.config" | cut -c1-12)"; }
qemu_dir() { printf '%s/qemu-11' "$cache"; }
stock_dir() { printf '%s/stock' "$cache"; }
peers_dir() { printf '%s/peers-%s' "$cache" "$(sha256sum <<<"${peers[*]}" | cut -c1-12)"; }
busybox_dir() { printf '%s/busybox' "$cache"; }

lab_qemu() { printf '%s/bin/qemu-system-x86_64' "$(qemu_dir)"; }
