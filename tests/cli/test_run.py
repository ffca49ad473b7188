"""`outboard run` and `outboard device`: crosvm's command lines, from outside."""

import contextlib
import pathlib
import re
import shutil
import socket
import subprocess
import time

import pytest

TREE = pathlib.Path(__file__).resolve().parents[2]
PLACE = "expected segment:00:slot.0 with a slot 01 to 1f, got"

# What is understood gets as far as the kernel, which is not there.
UNDERSTOOD = [
    # the guide's
    "--vvu-proxy /tmp/vvu.sock,addr=0000:00:10.0 -p vfio_iommu_type1.allow_unsafe_interrupts=1 "
    "-m 4096 bzImage",
    "--vhost-user-blk /tmp/vvu.sock -m 512 bzImage",
    # every option
    "-i i bzImage",
    "--initrd=i bzImage",
    "-c 2 --mem 64 --params a --params b bzImage",
    "--cpus num-cores=2,boot-cpu=0 --mem=size=64 --hugepages bzImage",
    "--block a,ro,root,id=x,o_direct,sparse=true,block_size=512 bzImage",
    "--block path=a,ro=false,direct=true,pci-address=00:05.0 bzImage",
    "--root a --rwdisk b --disk c bzImage",
    "--rwroot a bzImage",
    "--net tap-name=t,mac=2e:89:a8:e4:bf:95 --net host-ip=10.0.0.1,netmask=255.0.0.0 bzImage",
    "--vfio /sys/bus/pci/devices/0000:01:00.0,guest-address=00:06.0,iommu=off bzImage",
    "--vhost-user block,socket=a,pci-address=0000:00:07.0 --vhost-user type=9p,socket=b bzImage",
    "--vhost-user-net a --vhost-user-fs b:tag --vhost-user-console c --vhost-user-rng d bzImage",
    "--vhost-user-vsock a --vhost-user-connect-timeout-ms 1 bzImage",
    "--vvu-proxy a,uuid=c36aa4f3-50fd-4a0b-9e43-d2d3e5be7e6c,shmem-size=1G,max-queues=2,"
    "disconnect=status --vvu-proxy b,addr=00:05.0 bzImage",
    "--serial type=stdout,hardware=serial,num=1,console,earlycon,stdin bzImage",
    "--serial type=file,path=log --serial type=sink,hardware=virtio-console bzImage",
    "--disable-sandbox bzImage",
    "--seccomp-log-failures --no-balloon --no-rng --no-usb bzImage",
    "bzImage --mem 64 -v --platform num_pci_segments=2 --rng src=/dev/urandom",
]

REFUSED = [
    ("", "nothing to boot: expected a kernel"),
    ("--frobnicate k", "--frobnicate: unknown option; --help lists them"),
    ("--vhost-user-block s k", "--vhost-user-block: unknown option; did you mean --vhost-user-blk?"),
    ("--men 5 k", "--men: unknown option; did you mean --mem?"),
    ("-x k", "-x: unknown option; --help lists them"),
    ("a b", '"b": expected an option, the kernel is given already'),
    ("a --kernel b", "--kernel is given twice"),
    ("-- k", '"--": expected an option; --help lists them'),
    ("--mem", "--mem: expected [size=]MIB, got nothing"),
    ("-m", "--mem: expected [size=]MIB, got nothing"),
    ("-m k", '--mem k: size: expected a whole number from 2 to 16777216, got "k"'),
    ("-m 512M k", '--mem 512M: size: expected a whole number from 2 to 16777216, got "512M"'),
    ("-m 18446744073709551615 k", "--mem 18446744073709551615: size: expected a whole number from 2 "
     'to 16777216, got "18446744073709551615"'),
    ("-m 64 -m 64 k", "--mem is given twice"),
    ("-m 64 --memory 64M k", "--memory: expected no --mem beside it"),
    ("--initramfs a -i b k", "--initrd: expected no --initramfs beside it"),
    ("--disable-sandbox=yes k", '--disable-sandbox takes no value, got "yes"'),
    ("-p -x k", "--params: expected TEXT, got the option -x; as a value, write --params=-x"),
    ("-c 0 k", '--cpus 0: num-cores: expected a whole number from 1 to 254, got "0"'),
    ("-c 2,core-types=[atom=[0]] k", "--cpus 2,core-types=[atom=[0]]: core-types is not available in "
     "this version: processors are all alike"),
    ("--firmware f -p x", "--params: expected a kernel beside it, got --firmware"),
    # disks and networks
    ("--block ro=true k", "--block ro=true: path: expected path=PATH, got none"),
    ("--block a,rw k", "--block a,rw: rw: unknown field; expected one of path, ro, root, direct, "
     "o_direct, id, pci-address"),
    ("--block a,ro=maybe k", '--block a,ro=maybe: ro: expected on or off, got "maybe"'),
    ("--block a,id k", "--block a,id: id: expected id=TEXT"),
    ("--block a,sparse=false k", "--block a,sparse=false: sparse=false is not available in this "
     "version: discarded blocks are given back to the host"),
    ("--block a,block_size=4096 k", "--block a,block_size=4096: block_size=4096 is not available in "
     "this version: a disk has its image's; or use --vhost-user-blk and outboard device block "
     "--block-size"),
    ("--block a,root --root b k", "--block: root: expected one root, got two"),
    ("--block a,id=123456789012345678901 k",
     "--disk: serial: expected at most 20 bytes, got 21 (here: --block)"),
    ("--net tap=x k", "--net tap=x: tap: unknown field; did you mean tap-name=?"),
    ("-i a --initrd b k", "--initrd is given twice"),
    ("--net tap-name=a,vhost-net k", "--net tap-name=a,vhost-net: vhost-net=on is not available in "
     "this version: the device is a program of its own"),
    # devices of others
    ("--vhost-user socket=a k", "--vhost-user socket=a: type: expected type=TYPE, got none"),
    ("--vhost-user block k", "--vhost-user block: socket: expected socket=PATH, got none"),
    ("--vhost-user foo,socket=a k", "--generic-vhost-user: virtio_id: 'foo' is no virtio device type: "
     "expected a number from 1 to 63, or a name such as net, block, console, scsi, vsock or fs "
     "(here: --vhost-user)"),
    ("--vhost-user-blk a,max-queue-size=64 k", "--vhost-user-blk a,max-queue-size=64: max-queue-size "
     "is not available in this version: queues have 256 entries; or use --generic-vhost-user "
     "socket=PATH,virtio_id=TYPE,queue_sizes=[N,...]"),
    ("--vhost-user-fs a k", '--vhost-user-fs: expected SOCKET:TAG, or tag=NAME beside it, got "a"'),
    ("--vhost-user-fs :a k", '--vhost-user-fs: expected SOCKET:TAG, or tag=NAME beside it, got ":a"'),
    ("--vhost-user-fs a: k", "--fs: tag: expected 1 to 36 bytes, got 0 (here: --vhost-user-fs)"),
    ("--vhost-user-connect-timeout-ms 0 k", "--vhost-user-connect-timeout-ms: expected a whole number "
     'from 1 to 86400000, got "0"'),
    ("--vvu-proxy a,addr=0000:00:10.1 k", f'--vvu-proxy: addr: {PLACE} "0000:00:10.1"'),
    ("--vvu-proxy a,addr=05:2.1 k", f'--vvu-proxy: addr: {PLACE} "05:2.1"'),
    ("--vvu-proxy a,addr=0001:00:10.0 k", "--vvu-proxy: pci_segment: expected one below 1 "
     "(num_pci_segments of --platform), got 1"),
    ("--vvu-proxy addr=0000:00:10.0 k",
     "--vvu-proxy addr=0000:00:10.0: socket: expected socket=PATH, got none"),
    ("--vvu-proxy a,max-queues=257 k", "--vvu-proxy a,max-queues=257: max-queues: expected a whole "
     'number from 1 to 256, got "257"'),
    ("--vfio a,guest-address=1:2.3 k",
     f'--vfio a,guest-address=1:2.3: guest-address: {PLACE} "1:2.3"'),
    ("--vfio a,iommu=coiommu k",
     "--vfio a,iommu=coiommu: iommu coiommu is not available in this version: use iommu=viommu"),
    # ports
    ("--serial tty k", "--serial tty: tty: unknown field; expected one of type, hardware, num, path, "
     "console, earlycon, stdin"),
    ("--serial type=syslog k",
     "--serial type=syslog: type syslog is not available in this version: use type=file"),
    ("--serial type=stdout,num=2 k",
     "--serial: num: expected 1, there is one port of each hardware, got 2"),
    ("--serial type=file k", "--serial: path: expected path=PATH beside type=file"),
    ("--serial path=x k", "--serial: path: expected type=file beside it"),
    ("--serial type=sink,stdin k", "--serial: stdin: expected type=stdout beside it"),
    ("--serial type=sink,hardware=virtio-console,earlycon k",
     "--serial: earlycon: expected hardware=serial beside it"),
    ("--serial type=sink --serial type=stdout k",
     "--serial: hardware: expected one port of serial, got two"),
    ("--serial type=stdout --serial type=stdout,hardware=virtio-console k",
     "--serial: type: expected stdout for one port, got it for two"),
    ("--serial console --serial console,hardware=virtio-console k",
     "--serial: console: expected one console, got two"),
    ("--serial hardware=virtio-console --console tty k",
     "--serial: hardware=virtio-console: expected no --console beside it"),
    # what crosvm has
    ("-s /tmp/x k", "--socket is not available in this version; use --api-socket"),
    ("--shared-dir /x:y k",
     "--shared-dir is not available in this version; use --vhost-user-fs and a virtiofsd"),
    ("--gpu k", "--gpu is not available in this version; use --vhost-user gpu,socket=PATH"),
    ("--cid 3 k", "--cid is not available in this version; use --vsock cid=N,socket=PATH"),
    ("--wayland-sock x k", "--wayland-sock is not available in this version"),
    ("--gdb 1 k", "--gdb is not available in this version"),
]


@pytest.mark.parametrize("line", UNDERSTOOD)
def test_understood(outboard, tmp_path, line):
    result = outboard("run", *line.split(), cwd=tmp_path)
    assert result.stderr == (
        "outboard: kernel bzImage: cannot be opened: No such file or directory\n"
    )
    assert result.returncode == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("line,said", REFUSED)
def test_refused(outboard, tmp_path, line, said):
    result = outboard("run", *line.split(), cwd=tmp_path)
    assert result.stderr == f"outboard: {said}\n"
    assert result.stdout == ""
    assert result.returncode == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(outboard, option):
    result = outboard("run", option)
    assert result.stderr == "" and result.returncode == 0
    assert result.stdout.startswith("Usage: outboard run [OPTION]... KERNEL\n")
    assert "  -m, --mem [size=]MIB " in result.stdout
    assert "--vvu-proxy SOCKET[,FIELD=VALUE]..." in result.stdout
    assert "--api-socket" in result.stdout


COMPLETE = r"""
source "$1"
[[ -z $3 ]] || source "$3"
COMP_LINE=$2 COMP_POINT=${#2} COMPREPLY=()
_outboard
printf '%s\n' "${COMPREPLY[@]}"
"""


def complete(script, line, folder, more=""):
    result = subprocess.run(
        ["bash", "-c", COMPLETE, "bash", script, line, more],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert result.stderr == ""
    return sorted(result.stdout.split())


@pytest.fixture(scope="module")
def bash_script(outboard, tmp_path_factory):
    path = tmp_path_factory.mktemp("bash") / "outboard"
    path.write_text(outboard("--print-completion", "bash").stdout)
    return path


@pytest.mark.parametrize(
    "line,candidates",
    [
        ("outboard ru", ["run"]),
        ("outboard run --mem", ["--mem", "--memory"]),
        ("outboard run --vvu", ["--vvu-proxy"]),
        ("outboard run --vhost-user-b", ["--vhost-user-blk"]),
        ("outboard run --vvu-proxy s,ad", ["s,addr="]),
        ("outboard run --vvu-proxy disc", ["disconnect="]),
        ("outboard run --serial hardware=", ["serial", "virtio-console"]),
        ("outboard run -b path=bz", ["bzImage"]),
        ("outboard run -b a,r", ["a,ro", "a,ro=", "a,root", "a,root="]),
        ("outboard run --initrd bz", ["bzImage"]),
        ("outboard run -i bz", ["bzImage"]),
        ("outboard run -m 512 bz", ["bzImage"]),
        ("outboard run --plat", ["--platform"]),
        ("outboard run --sock", []),
        ("outboard run --shared-d", []),
    ],
)
def test_bash_completes(bash_script, tmp_path, line, candidates):
    (tmp_path / "bzImage").touch()
    assert complete(bash_script, line, tmp_path) == candidates


def test_bash_completes_a_device(bash_script, build, tmp_path):
    device = TREE / "completions" / "outboard-device.bash"
    line = f"{build}/src/outboard device "
    assert complete(bash_script, line + "blo", tmp_path, device) == ["block"]
    assert complete(bash_script, line + "block --vf", tmp_path, device) == ["--vfio="]
    assert complete(bash_script, line + "block --fil", tmp_path, device) == [
        "--file-fd=", "--file-name=", "--file="
    ]


def test_zsh_script_knows_both_grammars(outboard, tmp_path):
    text = outboard("--print-completion", "zsh").stdout
    assert re.search(r"^_outboard_run_vvu-proxy\(\)$", text, re.M)
    assert "'-m+[" in text
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    path = tmp_path / "_outboard"
    path.write_text(text)
    subprocess.run(["zsh", "-n", path], check=True, timeout=30)


# --- outboard device ---


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


def listens(path):
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            return True
    except OSError:
        return False


@contextlib.contextmanager
def serving(build, tmp_path, *arguments, at="d.sock"):
    """`outboard device` that listens, or has ended."""
    with subprocess.Popen(
        [build / "src" / "outboard", "device", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        cwd=tmp_path,
    ) as program:
        try:
            deadline = time.monotonic() + 30
            while not listens(tmp_path / at) and time.monotonic() < deadline:
                try:
                    program.wait(0.02)  # a socket that appears is no event; an end is
                    break
                except subprocess.TimeoutExpired:
                    pass
            yield program
        finally:
            program.kill()


def ends_well(program):
    program.terminate()
    said = program.communicate(timeout=30)[1]
    assert program.returncode == 0, said


@pytest.mark.parametrize(
    "arguments",
    [
        "block --socket d.sock --file disk.img",
        "block --socket d.sock --file disk.img:read-only",
        "block --socket-path=d.sock --file disk.img",
        "console --socket d.sock",
        "console --socket-path d.sock --socket end.sock",
        "rng --socket d.sock",
    ],
)
def test_device_listens(build, tmp_path, image, arguments):
    with serving(build, tmp_path, *arguments.split()) as program:
        assert listens(tmp_path / "d.sock")
        ends_well(program)
    assert not (tmp_path / "d.sock").exists()


def test_an_image_that_is_only_read_can_be_read_by_two(build, tmp_path, image):
    with serving(build, tmp_path, "block", "--socket", "d.sock", "--file", "disk.img:read-only") as one:
        for what, code in ("disk.img:read-only", 0), ("disk.img", 1):
            two = ("block", "--socket", "e.sock", "--file", what)
            with serving(build, tmp_path, *two, at="e.sock") as other:
                other.terminate()
                said = other.communicate(timeout=30)[1]
                assert other.returncode == code, said
        ends_well(one)


EXACTLY_ONE = "exactly one of --socket or --vfio is required"


@pytest.mark.parametrize(
    "arguments,said",
    [
        ("block --file disk.img", EXACTLY_ONE + " (or --fd)"),
        ("block --file disk.img --socket a --vfio 0000:00:10.0", EXACTLY_ONE),
        ("block --file disk.img --socket-path a --vfio 0000:00:10.0", EXACTLY_ONE + " (or --fd)"),
        ("block --file disk.img --socket a --socket-path b", EXACTLY_ONE),
        ("block --file disk.img --vfio xyz",
         "--vfio: 'xyz', expected a PCI address, as 0000:00:10.0"),
        ("net --vvu-device 0000:00:07.0,10.0.2.2,255.255.255.0,12:34:56:78:9a:bc",
         "--vvu-device: unknown option; use --vfio=ADDRESS --ip=ADDRESS --mask=MASK --mac=MAC"),
        ("net --vvu-tap-fd=0000:00:07.0,3",
         "--vvu-tap-fd: unknown option; use --vfio=ADDRESS --tap-fd=N"),
        ("net --device s,10.0.2.2,255.255.255.0,12:34:56:78:9a:bc",
         "--device: unknown option; use --socket=PATH --ip=ADDRESS --mask=MASK --mac=MAC"),
        ("console --output-file x --socket a", "--output-file: unknown option; use --file=PATH"),
        ("fs --socket a --tag t --shared-dir d", None),
    ],
)
def test_device_refused(outboard, tmp_path, image, arguments, said):
    result = outboard("device", *arguments.split(), cwd=tmp_path)
    assert result.returncode == 2
    if said:
        assert result.stderr == f"outboard-device: {said}\n"
    else:
        assert result.stderr.startswith("outboard-device: unknown model 'fs', expected one of: ")


def test_device_help(outboard):
    text = outboard("device", "--help").stdout
    assert "--vfio=ADDRESS" in text and "--socket=PATH" in text and "\nmodel block:" in text
