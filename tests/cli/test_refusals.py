"""Command lines that are refused, each with its exact line. All exit with 2 and start nothing."""

import pytest

LONG = "a" * 108
SIZE = "expected a size: digits and at most one of K, M, G (512M)"
TOPOLOGY = (
    "topology: expected threads per core:cores per die:dies per package:packages, "
    "each from 1 to 254 (1:2:2:1), got"
)
AFFINITY = (
    "affinity: expected [CPU@[LIST],...] with CPU below 254 and host processors up to 8191 "
    "([0@[0,1],1@[2-3]]), got"
)
ID = (
    "id: expected a name of 1 to 64 printable characters without blank, slash and quote that does "
    "not begin with __, got"
)

# As they stand, without a kernel before them.
WHOLE = [
    # options
    ("", "nothing to boot: expected --kernel or --firmware"),
    ("--kernal k", "--kernal: unknown option; did you mean --kernel?"),
    ("--user-devices socket=a", "--user-devices: unknown option; did you mean --user-device?"),
    ("--frobnicate", "--frobnicate: unknown option; --help lists them"),
    ("--kenrel k", "--kenrel: unknown option; did you mean --kernel?"),
    ("--ker k", "--ker: unknown option; did you mean --kernel?"),
    ("--nat x", "--nat: unknown option; did you mean --net?"),
    ("--ne x", "--ne: unknown option; --help lists them"),
    ("-x", "-x: unknown option; --help lists them"),
    ("-vx", "-x: unknown option; --help lists them"),
    ("vmlinuz", '"vmlinuz": expected an option; --help lists them'),
    ("--", '"--": expected an option; --help lists them'),
    ("-", '"-": expected an option; --help lists them'),
    ("--kernel", "--kernel: expected PATH, got nothing"),
    (
        "--kernel --initramfs i",
        "--kernel: expected PATH, got the option --initramfs; "
        "as a value, write --kernel=--initramfs",
    ),
    ("--kernel=", '--kernel: expected a path, got ""'),
    ("--kernel a --kernel b", "--kernel is given twice"),
    ("--cpus 1 --cpus 2", "--cpus is given twice"),
    ("--memory", "--memory: expected [size=]SIZE[,FIELD=VALUE]..., got nothing"),
    ("--verbose=3", '--verbose takes no value, got "3"'),
    ("--print-completion fish", "--print-completion: expected bash or zsh"),
    # control from outside
    (
        "--no-shutdown",
        "--no-shutdown: expected --api-socket beside it, or nobody could end outboard",
    ),
    ("--api-socket path=a,fd=3", "--api-socket: expected only one of path and fd"),
    ("--api-socket", "--api-socket: expected [path=]PATH|fd=N, got nothing"),
    ("--api-socket x --cpus 2", "nothing to boot: expected --kernel or --firmware"),
    (
        "--api-socket fd=-1",
        '--api-socket fd=-1: fd: expected a whole number from 0 to 2147483647, got "-1"',
    ),
    (
        "--api-socket x --event-monitor path=a,fd=3",
        "--event-monitor: expected only one of path and fd",
    ),
    (
        "--event-monitor x",
        "--event-monitor x: x: unknown field; expected one of path, fd",
    ),
    # what the program does not have
    ("--vdpa path=x", "--vdpa is not available in this version"),
    ("--balloon size=1M", "--balloon is not available in this version"),
    ("--debug-console tty", "--debug-console is not available in this version; use --serial"),
    ("--memory-zone size=1G", "--memory-zone is not available in this version; use --memory"),
    ("--seccomp maybe", '--seccomp: expected false, true, log or errno, got "maybe"'),
    # what to boot
    ("--initramfs i", "nothing to boot: expected --kernel or --firmware"),
    ("--firmware f --kernel k", "--firmware: expected no --kernel beside it"),
    ("--firmware f --initramfs i", "--initramfs: expected --kernel beside it, got --firmware"),
    ("--firmware f --cmdline c", "--cmdline: expected --kernel beside it, got --firmware"),
]

# Behind --kernel k.
WITH_KERNEL = [
    # the grammar
    ("--memory size=1G,", "--memory size=1G,: expected FIELD=VALUE between commas, got nothing"),
    ("--memory size=[1G", "--memory size=[1G: expected balanced quotes and brackets"),
    ("--memory size=1G]", "--memory size=1G]: expected balanced quotes and brackets"),
    ('--memory size="1G', '--memory size="1G: expected balanced quotes and brackets'),
    ("--memory siez=1G", "--memory siez=1G: siez: unknown field; did you mean size=?"),
    (
        "--platform x=1",
        "--platform x=1: x: unknown field; expected one of num_pci_segments, "
        "iommu_segments, iommu_address_width, intremap, iommufd, iommufd_fd, vfio_p2p_dma, "
        "vfio_unsafe_noiommu",
    ),
    (
        "--platform intremap=yes",
        '--platform intremap=yes: intremap: expected on or off, got "yes"',
    ),
    ("--memory shared", "--memory shared: shared: expected shared=on|off"),
    ("--memory hugepages=on,1G", "--memory hugepages=on,1G: 1G: unknown field; expected one of "
     "size, shared, hugepages, hugepage_size, prefault, thp"),
    # processors
    ("--cpus 0", '--cpus 0: boot: expected a whole number from 1 to 254, got "0"'),
    ("--cpus 255", '--cpus 255: boot: expected a whole number from 1 to 254, got "255"'),
    ("--cpus boot=-1", '--cpus boot=-1: boot: expected a whole number from 1 to 254, got "-1"'),
    ("--cpus max=0", '--cpus max=0: max: expected a whole number from 1 to 254, got "0"'),
    (
        "--cpus boot=99999999999999999999",
        "--cpus boot=99999999999999999999: boot: expected a whole number from 1 to 254, "
        'got "99999999999999999999"',
    ),
    ("--cpus boot=4,max=2", "--cpus: boot: expected at most max (2), got 4"),
    ("--cpus topology=1:2", f'--cpus topology=1:2: {TOPOLOGY} "1:2"'),
    ("--cpus topology=1:2:2:1:1", f'--cpus topology=1:2:2:1:1: {TOPOLOGY} "1:2:2:1:1"'),
    ("--cpus topology=0:2:2:1", f'--cpus topology=0:2:2:1: {TOPOLOGY} "0:2:2:1"'),
    (
        "--cpus 4,topology=2:2:2:1",
        "--cpus: topology: expected a product of 4 (max), got 2:2:2:1 = 8",
    ),
    (
        "--cpus boot=1,topology=254:254:254:254",
        "--cpus: topology: expected a product of 1 (max), got 254:254:254:254 = 4162314256",
    ),
    (
        "--cpus max_phys_bits=53",
        '--cpus max_phys_bits=53: max_phys_bits: expected a whole number from 36 to 52, got "53"',
    ),
    ("--cpus affinity=0@1", f'--cpus affinity=0@1: {AFFINITY} "0@1"'),
    ("--cpus affinity=[0@[3-1]]", f'--cpus affinity=[0@[3-1]]: {AFFINITY} "[0@[3-1]]"'),
    ("--cpus affinity=[0@[8192]]", f'--cpus affinity=[0@[8192]]: {AFFINITY} "[0@[8192]]"'),
    (
        "--cpus affinity=[1@[0]]",
        "--cpus: affinity: expected processors below 1 (max), got 1",
    ),
    ("--cpus affinity=[0@[0],0@[1]]", "--cpus: affinity: processor 0 is given twice"),
    (
        "--cpus nested=off",
        "--cpus nested=off: nested=off is not available in this version: the guest sees the "
        "host's virtualisation extensions whenever KVM offers them",
    ),
    (
        "--cpus features=amx",
        "--cpus features=amx: features is not available in this version: "
        "processor features follow the host",
    ),
    (
        "--cpus core_scheduling=vm",
        "--cpus core_scheduling=vm: core_scheduling=vm is not available in this version: "
        "processor threads are left to the host's scheduler",
    ),
    # memory
    ("--memory size=0", "--memory: size: expected at least 2M, got 0"),
    ("--memory 1M", "--memory: size: expected at least 2M, got 1048576"),
    ("--memory size=1T", f'--memory size=1T: size: {SIZE}, got "1T"'),
    ("--memory size=1KM", f'--memory size=1KM: size: {SIZE}, got "1KM"'),
    ("--memory size=-1", f'--memory size=-1: size: {SIZE}, got "-1"'),
    (
        "--memory size=17179869184G",
        "--memory size=17179869184G: size: expected a size below 16 EiB, got \"17179869184G\"",
    ),
    (
        "--memory size=4194305",
        "--memory: size: expected a multiple of 4096 (4K), got 4194305",
    ),
    (
        "--memory size=3M,hugepages=on,hugepage_size=2M",
        "--memory: size: expected a multiple of 2097152 (hugepage_size), got 3145728",
    ),
    ("--memory hugepage_size=2M", "--memory: hugepage_size: expected hugepages=on beside it"),
    (
        "--memory hugepages=on,hugepage_size=4M",
        "--memory: hugepage_size: expected 2M or 1G, got 4194304",
    ),
    ("--memory thp=maybe", '--memory thp=maybe: thp: expected on or off, got "maybe"'),
    (
        "--memory hotplug_size=1G",
        "--memory hotplug_size=1G: hotplug_size=1G is not available in this version: "
        "memory cannot be added to a running guest",
    ),
    (
        "--memory mergeable=on",
        "--memory mergeable=on: mergeable=on is not available in this version: "
        "the host's kernel does not merge shared memory",
    ),
    # platform
    (
        "--platform num_pci_segments=0",
        "--platform num_pci_segments=0: num_pci_segments: "
        'expected a whole number from 1 to 96, got "0"',
    ),
    (
        "--platform num_pci_segments=97",
        "--platform num_pci_segments=97: num_pci_segments: "
        'expected a whole number from 1 to 96, got "97"',
    ),
    (
        "--platform iommu_segments=[1]",
        "--platform: iommu_segments: expected segments below 1 (num_pci_segments), got 1",
    ),
    # serial port
    (
        "--serial modem",
        "--serial modem: mode: expected off, null, tty, pty, file=PATH or socket=PATH, "
        'got "modem"',
    ),
    ("--serial file", "--serial file: file: expected file=PATH"),
    ("--serial file=", '--serial file=: file: expected PATH, got ""'),
    ("--serial mode=tty", "--serial mode=tty: mode: unknown field; expected one of file, socket"),
    (
        "--serial tty,file=/tmp/x",
        "--serial tty,file=/tmp/x: file: expected only one of tty and file",
    ),
    (
        f"--serial socket={LONG}",
        f"--serial socket={'a' * 89}...: socket: expected a path of 1 to 107 bytes, got 108",
    ),
    # devices
    ("--device", "--device: expected [path=]PATH|BDF[,FIELD=VALUE]... [...], got nothing"),
    (
        "--device id=x",
        "--device: VFIO device config must specify `path=` or `fd=`; "
        "expected one of them, got none",
    ),
    (
        "--device 01:00.0,fd=7 --platform iommufd=on",
        "--device: VFIO device config must specify `path=` or `fd=`; "
        "expected one of them, got both",
    ),
    (
        "--device path=",
        "--device: VFIO device config must specify `path=` or `fd=`; "
        "expected one of them, got none",
    ),
    (
        "--device fd=7",
        "--device: fd: expected --platform iommufd=on or iommufd_fd=N beside it: "
        "the descriptor of a device works with /dev/iommu only",
    ),
    (
        "--device fd=2",
        '--device fd=2: fd: expected a whole number from 3 to 2147483647, got "2"',
    ),
    (
        "--device 01:00.0,iommu=on,x_nv_gpudirect_clique=1",
        "--device: x_nv_gpudirect_clique: expected a device that is not behind the guest's IOMMU "
        "(iommu=off): one that is cannot reach another's memory",
    ),
    (
        "--device 01:00.0,vf_token=c36aa4f3",
        "--device: vf_token: expected one like c36aa4f3-50fd-4a0b-9e43-d2d3e5be7e6c, "
        'got "c36aa4f3"',
    ),
    (
        "--device 01:00.0 path=/sys/bus/pci/devices/0000:01:00.0/",
        "--device: path: Duplicated device path /sys/bus/pci/devices/0000:01:00.0/",
    ),
    (
        "--device /sys/bus/mdev/devices/x /sys/bus/mdev/devices/x",
        "--device: path: Duplicated device path /sys/bus/mdev/devices/x",
    ),
    (
        "--platform iommufd=on --device fd=7 fd=7",
        "--device: fd: expected one device on each descriptor, got two on 7",
    ),
    ("--device 01:00.0,id=a --disk path=y,id=a", "--disk: id: Identifier a is not unique"),
    (
        "--device 01:00.0,x_nv_gpudirect_clique=16",
        "--device 01:00.0,x_nv_gpudirect_clique=16: x_nv_gpudirect_clique: "
        'expected a whole number from 0 to 15, got "16"',
    ),
    (
        "--device 01:00.0,x_nv_gpudirect_clique=0 --platform vfio_p2p_dma=off",
        "--device: Device with x_nv_gpudirect_clique requires vfio_p2p_dma=on",
    ),
    (
        "--device 01:00.0,x_exclude_mmap_bars=[6]",
        "--device 01:00.0,x_exclude_mmap_bars=[6]: x_exclude_mmap_bars: "
        'expected a list of whole numbers from 0 to 5 ([1,2]), got "[6]"',
    ),
    ("--user-device", "--user-device: expected socket=PATH[,FIELD=VALUE]... [...], got nothing"),
    ("--user-device id=x", "--user-device id=x: socket: expected socket=PATH, got none"),
    ("--user-device socket=", "--user-device socket=: socket: expected socket=PATH, got none"),
    (
        "--user-device /tmp/a",
        "--user-device /tmp/a: /tmp/a: unknown field; "
        "expected one of socket, iommu, id, pci_segment, pci_device_id",
    ),
    (
        f"--user-device socket={LONG}",
        f"--user-device socket={'a' * 89}...: socket: expected a path of 1 to 107 bytes, got 108",
    ),
    (
        "--user-device socket=a socket=a",
        "--user-device: socket: expected one device on each socket, got two on a",
    ),
    (
        "--user-device socket=a,id=x --user-device socket=b,id=x",
        "--user-device: id: Identifier x is not unique",
    ),
    ("--user-device socket=a,id=__x", f'--user-device socket=a,id=__x: {ID} "__x"'),
    ("--user-device socket=a,id=a/b", f'--user-device socket=a,id=a/b: {ID} "a/b"'),
    (
        "--user-device socket=a,pci_device_id=0",
        "--user-device socket=a,pci_device_id=0: pci_device_id: "
        "Given PCI device ID (0) is reserved; expected 1 to 31",
    ),
    (
        "--user-device socket=a,pci_device_id=32",
        "--user-device socket=a,pci_device_id=32: pci_device_id: "
        'expected a whole number from 1 to 31, got "32"',
    ),
    (
        "--user-device socket=a,pci_device_id=3 socket=b,pci_device_id=3,id=x",
        "--user-device: pci_device_id: expected one device in a slot, "
        "got a, x in slot 3 of segment 0",
    ),
    (
        "--user-device socket=a,pci_segment=1",
        "--user-device: pci_segment: expected one below 1 (num_pci_segments of --platform), got 1",
    ),
    (
        "--user-device socket=a,pci_segment=96",
        "--user-device socket=a,pci_segment=96: pci_segment: "
        'expected a whole number from 0 to 95, got "96"',
    ),
    (
        "--serial tty --console tty",
        "--console: tty: expected another mode, --serial has the terminal",
    ),
    ("--disk readonly=on", "--disk: path: expected path=PATH, got none"),
    ("--disk path=x,socket=y", "--disk: socket: expected vhost_user=on beside it"),
    ("--disk vhost_user=on", "--disk: vhost_user: expected socket=PATH beside it"),
    (
        "--disk path=x,vhost_user=on,socket=y",
        "--disk: path: expected no vhost_user=on beside it",
    ),
    (
        "--disk path=x,queue_size=100",
        "--disk: queue_size: Queue size must be a power of 2, got 100",
    ),
    (
        "--disk path=x,serial=123456789012345678901",
        "--disk: serial: expected at most 20 bytes, got 21",
    ),
    (
        "--disk path=x,bw_size=1M",
        "--disk: bw_size: expected bw_refill_time beside it, and the other way round",
    ),
    (
        "--disk path=x,image_type=qcow2",
        "--disk path=x,image_type=qcow2: image_type qcow2 is not available in this version: "
        "use qemu-storage-daemon or qemu-nbd for other formats than raw",
    ),
    ("--disk path=x,id=a path=y,id=a", "--disk: id: Identifier a is not unique"),
    ("--disk path=x,id=a --net id=a", "--net: id: Identifier a is not unique"),
    ("--net num_queues=3", "--net: num_queues: expected an even number, got 3"),
    ("--net mtu=67", "--net: mtu: expected 68 to 65535, got 67"),
    (
        "--net bw_size=5",
        "--net: bw_size: expected bw_refill_time beside it, and the other way round",
    ),
    ("--net tap=x,fd=[3]", "--net: expected at most one of tap=, fd= and vhost_user=on"),
    ("--net fd=[3,4]", "--net: fd: expected 1 descriptors (num_queues / 2), got 2"),
    (
        "--net mac=01:00:00:00:00:00",
        "--net: mac: expected an address like 2e:89:a8:e4:bf:95, not a multicast one, "
        'got "01:00:00:00:00:00"',
    ),
    ("--net ip=1.2.3", '--net: ip: expected an IPv4 address like 192.168.249.1, got "1.2.3"'),
    (
        "--generic-vhost-user socket=x",
        "--generic-vhost-user: expected one of device_type=TYPE and virtio_id=TYPE",
    ),
    # vsock
    ("--vsock cid=3", "--vsock: socket: expected socket=PATH, got none"),
    ("--vsock socket=x", "--vsock: cid: expected cid=N, got none"),
    (
        "--vsock cid=2,socket=x",
        "--vsock cid=2,socket=x: cid: expected a whole number from 3 to 4294967294, "
        'got "2"',
    ),
    (
        "--vsock cid=4294967295,socket=x",
        "--vsock cid=4294967295,socket=x: cid: expected a whole number from 3 to 4294967294, "
        'got "4294967295"',
    ),
    (
        "--vsock cid=3,socket=x,vhost_user=on",
        "--vsock: cid: expected none beside vhost_user=on: the back-end has it",
    ),
    (
        f"--vsock cid=3,socket={'a' * 97}",
        "--vsock: socket: expected a file's name of 1 to 96 bytes, got 97",
    ),
    (
        "--vsock cid=3,socket=folder/",
        "--vsock: socket: expected a file's name of 1 to 96 bytes, got 0",
    ),
    (
        "--vsock cid=3,socket=x --fs tag=t,socket=x",
        "--vsock: socket: expected one device on each socket, got two on x",
    ),
    ("--vsock cid=3,socket=x --vsock cid=4,socket=y", "--vsock is given twice"),
    (
        "--fs tag=t,socket=x,queue_size=1000",
        "--fs: queue_size: Queue size must be a power of 2, got 1000",
    ),
    (
        "--fs tag=t,socket=x,reconnect=maybe",
        '--fs: reconnect: expected on, off or 1 to 86400 seconds, got "maybe"',
    ),
]


def check(result, line):
    assert result.stderr == f"outboard: {line}\n"
    assert result.stdout == ""
    assert result.returncode == 2


@pytest.mark.parametrize("arguments,line", WHOLE)
def test_whole_command_line(outboard, arguments, line):
    check(outboard(*arguments.split()), line)


@pytest.mark.parametrize("arguments,line", WITH_KERNEL)
def test_with_a_kernel(outboard, arguments, line):
    check(outboard("--kernel", "k", *arguments.split()), line)


def test_a_value_of_several_lines_is_shown_in_one(outboard):
    check(
        outboard("--kernel", "k", "--memory", "size=1\n2\x1b(B"),
        f'--memory size=1?2?(B: size: {SIZE}, got "1?2?(B"',
    )


def test_a_very_long_value_is_cut(outboard):
    result = outboard("--kernel", "k", "--memory", "size=" + "9" * 100_000)
    assert result.returncode == 2
    assert len(result.stderr) < 600
    assert result.stderr.count("\n") == 1
    assert "expected a size below 16 EiB" in result.stderr


def test_very_deep_brackets_are_harmless(outboard):
    check(
        outboard("--kernel", "k", "--cpus", "affinity=" + "[" * 100_000),
        f"--cpus affinity={'[' * 87}...: expected balanced quotes and brackets",
    )


def test_a_socket_given_to_too_many_devices_ends_soon(outboard):
    devices = [f"socket=/tmp/none{i}" for i in range(5000)]
    check(
        outboard("--kernel", "k", "--user-device", *devices),
        "--user-device: pci_segment: expected at most 31 devices in a segment, "
        "got more in segment 0",
    )


def test_nothing_is_started(outboard, tmp_path):
    result = outboard(
        "--kernel", "k", "--serial", "file=serial", "--log-file", "log", "--cpus", "0", cwd=tmp_path
    )
    assert result.returncode == 2
    assert not list(tmp_path.iterdir())
