/*
 * test_viommu.c - the guest's IOMMU, and a random-number device behind it
 *
 * "viommu": what the tables say; the device through the bypass, through mappings, and not at all;
 * each request that makes no sense, and what it is answered; a reset. "viommu-many": as many
 * mappings as n says (the most there can be, and one too many), of all of which a device is told, and a
 * detach that takes all of them away. "viommu-vvu": a VVU function behind it, whose rings are taken away. Virtio 1.3, 5.13.
 */
#include "acpi.h"
#include "boot.h"
#include "print.h"
#include "sys.h"
#include "tests.h"
#include "virtio.h"

#define TYPE_RNG   4
#define TYPE_IOMMU 23

#define FEATURE_ACCESS_PLATFORM (1ull << 33)
#define IOMMU_MAP_UNMAP		(1ull << 2)
#define IOMMU_PROBE		(1ull << 4)
#define IOMMU_BYPASS_CONFIG	(1ull << 6)

#define CONFIG_PAGE_MASK  0
#define CONFIG_PROBE_SIZE 32
#define CONFIG_BYPASS	  36

enum { ATTACH = 1, DETACH, MAP, UNMAP, PROBE };
enum { S_OK, S_IOERR, S_UNSUPP, S_DEVERR, S_INVAL, S_RANGE, S_NOENT, S_FAULT, S_NOMEM };
#define NO_STATUS 0x100 /* the device wrote nothing */

enum { MAP_READ = 1, MAP_WRITE = 2 };

/* Where buffers are for the device: nowhere near where they are. */
#define SHIFT 0x10000000000ull

struct request {
	uint8_t type, reserved[3];
	uint32_t domain;
	union {
		struct {
			uint32_t endpoint, flags, reserved;
		} attach;
		struct {
			uint64_t first, last;
			uint64_t gpa;
			uint32_t flags;
		} map;
	};
} __attribute__((packed));

/* Readable bytes of each type. */
static const uint32_t sizes[] = { 0, 20, 20, 36, 28, 72 };

static struct virtio iommu, rng;
static uint32_t endpoint;
static uint8_t page[4096] __attribute__((aligned(4096)));
static struct {
	struct request request;
	uint8_t rest[64];
	uint8_t answer[1024];
} asked[RING_MAX / 2];

/* --- talking to it --- */

static void wait_for(struct virtio *v, unsigned n)
{
	while (virtio_waiting(v, 0) < n)
		__builtin_ia32_pause();
}

/* Send it with so many bytes of each kind. The status where it is expected, or NO_STATUS. */
static unsigned send(const void *out, uint32_t out_len, uint32_t in_len, uint32_t status_at)
{
	memset(asked[0].answer, 0xee, sizeof(asked[0].answer));
	virtio_give(&iommu, 0, out, out_len, asked[0].answer, in_len);
	virtio_kick(&iommu, 0);
	wait_for(&iommu, 1);
	return virtio_take(&iommu, 0) ? asked[0].answer[status_at] : NO_STATUS;
}

static unsigned ask(const struct request *r)
{
	return send(r, sizes[r->type], 4, 0);
}

static struct request attach_request(uint8_t type, uint32_t domain, uint32_t to, uint32_t flags)
{
	return (struct request){
		.type = type, .domain = domain, .attach = { .endpoint = to, .flags = flags }
	};
}

static unsigned attach(uint32_t domain, uint32_t to, uint32_t flags)
{
	struct request r = attach_request(ATTACH, domain, to, flags);

	return ask(&r);
}

static unsigned detach(uint32_t domain, uint32_t from)
{
	struct request r = attach_request(DETACH, domain, from, 0);

	return ask(&r);
}

static struct request map_request(
	uint8_t type, uint32_t domain, uint64_t first, uint64_t last, uint64_t gpa, uint32_t flags)
{
	return (struct request){ .type = type,
		.domain = domain,
		.map = { .first = first, .last = last, .gpa = gpa, .flags = flags } };
}

static unsigned map(uint32_t domain, uint64_t first, uint64_t last, uint64_t gpa, uint32_t flags)
{
	struct request r = map_request(MAP, domain, first, last, gpa, flags);

	return ask(&r);
}

static unsigned unmap(uint32_t domain, uint64_t first, uint64_t last)
{
	struct request r = map_request(UNMAP, domain, first, last, 0, 0);

	return ask(&r);
}

static bool start_iommu(void)
{
	uint64_t features = FEATURE_VERSION_1 | IOMMU_MAP_UNMAP | IOMMU_PROBE | IOMMU_BYPASS_CONFIG;

	if (!ok(virtio_find(&iommu, TYPE_IOMMU, 0), "there is an IOMMU") ||
		!equal(iommu.offered & features, features, "it offers what it takes") ||
		!ok(virtio_negotiate(&iommu, features), "and accepts it"))
		return false;
	virtio_queue(&iommu, 0, RING_MAX, NO_VECTOR);
	virtio_queue(&iommu, 1, RING_MAX, NO_VECTOR);
	virtio_driver_ok(&iommu);
	return true;
}

/* --- the device behind it --- */

static bool start_rng(void)
{
	if (!virtio_negotiate(&rng, FEATURE_VERSION_1 | FEATURE_ACCESS_PLATFORM))
		return false;
	virtio_queue(&rng, 0, RING_MAX, NO_VECTOR);
	virtio_driver_ok(&rng);
	return !(virtio_status(&rng) & STATUS_NEEDS_RESET);
}

static void do_nothing(void)
{
}

/* Mappings change while the device works, or is away. */
static void map_another(void)
{
	uint64_t at = SHIFT * 2;

	map(1, at, at + 0xfff, (uint64_t)page, MAP_READ);
	unmap(1, at, at + 0xfff);
}

/* As fill(), and so long as the device takes, do something else. */
static unsigned fill_while(uint64_t shift, void (*meanwhile)(void))
{
	volatile uint64_t seen = (uint64_t)page + shift;
	unsigned filled = 0;

	memset(page, 0, sizeof(page));
	/* Its first piece is empty for a device that only writes. */
	virtio_give(&rng, 0, (void *)seen, 1, (void *)seen, sizeof(page));
	virtio_kick(&rng, 0);
	while (!virtio_waiting(&rng, 0))
		meanwhile();
	virtio_take(&rng, 0);
	for (unsigned i = 0; i < sizeof(page); i++)
		filled += page[i] != 0;
	return filled;
}

/* How many bytes of the page the device has filled, which it sees `shift` above its place. */
static unsigned fill(uint64_t shift)
{
	return fill_while(shift, do_nothing);
}

/* Most bytes are not 0; most is what a random page has. */
#define FULL (sizeof(page) / 2)

/* --- what is there --- */

static void check_viot(void)
{
	uint64_t viot = acpi_table("VIOT", 0);
	uint64_t node = viot + 48;

	if (!ok(viot, "there is a VIOT"))
		return;
	equal(acpi_sum(viot, read32(viot + 4)), 0, "its sum is right");
	equal(read16(viot + 36), 2, "it has two nodes");
	equal(read8(node), 3, "one is a virtio IOMMU on PCI");
	equal(read16(node + 6), pci_slot(iommu.fn) << 3, "at its address");
	node += read16(node + 2);
	equal(read8(node), 1, "the other is a range of PCI functions");
	equal(read32(node + 4), endpoint, "beginning with the device's number");
	equal(read16(node + 12), pci_slot(rng.fn) << 3, "at its address");
	equal(read16(node + 14), pci_slot(rng.fn) << 3, "and ending there");
	equal(read16(node + 16), 48, "behind the IOMMU");
	equal(read32(viot + 4), 48 + 16 + 24, "and that is all");
}

static void check_probe(void)
{
	struct request r = { .type = PROBE, .domain = endpoint };
	uint32_t size = read32(iommu.config + CONFIG_PROBE_SIZE);
	const uint8_t *a = asked[0].answer;
	uint64_t first, last;

	memcpy(&asked[1].request, &r, sizeof(r));
	memset(asked[1].rest, 0, sizeof(asked[1].rest));
	if (!ok(size >= 24 && size + 4 <= sizeof(asked[0].answer), "properties of %u bytes", size))
		return;
	equal(send(&asked[1].request, sizes[PROBE], size + 4, size), S_OK, "a probe is answered");
	memcpy(&first, a + 8, 8);
	memcpy(&last, a + 16, 8);
	equal(a[0] | a[1] << 8, 1, "it begins with a reserved region");
	equal(a[2] | a[3] << 8, 20, "of the right length");
	equal(a[4], 1, "for interrupts");
	equal(first, 0xfee00000, "where they go");
	equal(last, 0xfeefffff, "and no further");
	equal(a[24] | a[25] << 8, 0, "and ends with it");
	equal(send(&asked[1].request, sizes[PROBE], size, size - 4), S_INVAL,
		"too little room for properties");
	asked[1].request.domain = endpoint + 1;
	equal(send(&asked[1].request, sizes[PROBE], size + 4, size), S_NOENT, "a probe of nobody");
}

static void check_bypass(void)
{
	equal(read8(iommu.config + CONFIG_BYPASS), 1, "it is bypassed at first");
	ok(start_rng() && fill(0) > FULL, "the device sees memory as it is");
	write8(iommu.config + CONFIG_BYPASS, 0);
	equal(read8(iommu.config + CONFIG_BYPASS), 0, "the bypass can be closed");
	ok(fill(0) == 0, "then it sees nothing");
	write8(iommu.config + CONFIG_BYPASS, 7);
	equal(read8(iommu.config + CONFIG_BYPASS), 0, "7 is neither open nor closed");
	equal(attach(9, endpoint, 1), S_OK, "a domain can be a bypass");
	ok(fill(0) > FULL, "in which the device sees all");
	equal(map(9, SHIFT, SHIFT + 0xfff, 0, MAP_READ), S_INVAL, "and nothing is mapped");
	equal(unmap(9, 0, ~0ull), S_INVAL, "or unmapped");
	equal(attach(9, endpoint, 0), S_INVAL, "it is no other kind of domain");
	equal(detach(9, endpoint), S_OK, "a detach ends it");
	ok(fill(0) == 0, "and the device's sight");
	write8(iommu.config + CONFIG_BYPASS, 1);
	ok(fill(0) > FULL, "the bypass is open again");
}

/* --- translating --- */

static void check_mappings(void)
{
	uint64_t at = (uint64_t)page + SHIFT;

	equal(attach(1, endpoint, 0), S_OK, "the device is put into a domain");
	ok(fill(0) == 0, "where nothing is mapped");
	equal(map(1, 0, 0xbfffffff, 0, MAP_READ | MAP_WRITE), S_OK, "the rings' memory is mapped");
	ok(start_rng(), "and the device started");
	ok(fill(SHIFT) == 0, "a page that is not mapped stays empty");
	equal(map(1, at, at + 0xfff, (uint64_t)page, MAP_READ), S_OK, "it is mapped for reading");
	ok(fill(SHIFT) == 0, "and stays empty");
	equal(unmap(1, at, at + 0xfff), S_OK, "it is unmapped");
	equal(map(1, at, at + 0xfff, (uint64_t)page, MAP_READ | MAP_WRITE), S_OK,
		"it is mapped for both");
	ok(fill(SHIFT) > FULL, "and filled");
	equal(unmap(1, at, at + 0xfff), S_OK, "it is unmapped");
	ok(fill(SHIFT) == 0, "and stays empty again");
}

/* What is refused, and how. */
static void check_refusals(void)
{
	static const struct {
		uint64_t first, last, gpa;
		uint32_t flags;
		unsigned status;
		const char *what;
	} maps[] = {
		{ SHIFT, SHIFT + 0xffe, 0, 3, S_RANGE, "half a page" },
		{ SHIFT + 1, SHIFT + 0xfff, 0, 3, S_RANGE, "a page's end" },
		{ SHIFT, SHIFT + 0xfff, 1, 3, S_RANGE, "memory inside a page" },
		{ SHIFT, SHIFT - 1, 0, 3, S_RANGE, "an end before the beginning" },
		{ SHIFT, ~0ull, ~0xfffull, 3, S_RANGE, "memory past the end of all" },
		{ 0, ~0ull, 0, 3, S_INVAL, "everything, with the interrupts' window" },
		{ 0xfeeff000, 0xfeefffff, 0, 3, S_INVAL, "the end of the interrupts' window" },
		{ 0, 0xfff, 0, 3, S_INVAL, "what is mapped already" },
		{ 0xbffff000, 0xc0000fff, 0, 3, S_INVAL, "an overlap by a page" },
		{ SHIFT, SHIFT + 0xfff, 0, 0, S_INVAL, "no access" },
		{ SHIFT, SHIFT + 0xfff, 0, 4, S_INVAL, "device memory, which was not negotiated" },
		{ SHIFT, SHIFT + 0xfff, 0, 0x80000003, S_INVAL, "a flag that does not exist" },
	};
	struct request r;

	for (unsigned i = 0; i < sizeof(maps) / sizeof(maps[0]); i++)
		equal(map(1, maps[i].first, maps[i].last, maps[i].gpa, maps[i].flags),
			maps[i].status, "a mapping of %s", maps[i].what);
	equal(map(2, SHIFT, SHIFT + 0xfff, 0, 3), S_NOENT, "a mapping in no domain");
	equal(unmap(2, 0, ~0ull), S_NOENT, "an unmap in no domain");
	equal(unmap(1, 0x1000, ~0ull), S_RANGE, "an unmap from the middle of a mapping");
	equal(unmap(1, 0, 0x1fff), S_RANGE, "an unmap up to the middle of one");
	equal(unmap(1, 1, 0), S_RANGE, "an unmap whose end is before its beginning");
	equal(unmap(1, SHIFT, ~0ull), S_OK, "an unmap of nothing");
	equal(attach(1, endpoint + 1, 0), S_NOENT, "an attach of nobody");
	equal(attach(1, endpoint, 2), S_INVAL, "an attach with a flag that does not exist");
	r = attach_request(ATTACH, 1, endpoint, 0);
	r.attach.reserved = 1;
	equal(ask(&r), S_INVAL, "an attach with something reserved");
	equal(detach(1, endpoint + 1), S_NOENT, "a detach of nobody");
	equal(detach(2, endpoint), S_INVAL, "a detach from another domain");
	equal(attach(1, endpoint, 0), S_OK, "an attach to where it is");
}

static void check_malformed(void)
{
	struct request r = map_request(MAP, 1, SHIFT, SHIFT + 0xfff, 0, 3);

	equal(send(&r, sizes[MAP] - 1, 4, 0), NO_STATUS, "a mapping that is a byte short");
	equal(send(&r, 3, 4, 0), NO_STATUS, "less than a head");
	equal(send(&r, sizes[MAP], 3, 0), NO_STATUS, "no room for a status");
	r.type = 6;
	equal(send(&r, sizes[MAP], 4, 0), NO_STATUS, "a type that does not exist");
	r.type = 0;
	equal(send(&r, sizes[MAP], 4, 0), NO_STATUS, "type 0");
	r.type = MAP;
	equal(send((const void *)0xd0000000, sizes[MAP], 4, 0), NO_STATUS, "a request in no RAM");
	equal(send(&r, sizeof(asked), 1024, 0), S_OK, "more bytes than needed");
	equal(unmap(1, SHIFT, SHIFT + 0xfff), S_OK, "was a mapping");
}

static void check_reset(void)
{
	virtio_reset(&iommu);
	if (!start_iommu())
		return;
	ok(fill(0) > FULL, "after a reset it is bypassed");
	equal(map(1, 0, 0xfff, 0, 3), S_NOENT, "and there are no domains");
}

static bool set_up(void)
{
	if (!start_iommu() || !ok(virtio_find(&rng, TYPE_RNG, 0), "there is a device"))
		return false;
	rng.bank = 1;
	endpoint = pci_slot(rng.fn) << 3;
	return equal(rng.offered & FEATURE_ACCESS_PLATFORM, FEATURE_ACCESS_PLATFORM,
		"that says it is behind an IOMMU");
}

void test_viommu(void)
{
	if (!set_up())
		return;
	check_viot();
	check_probe();
	ok(virtio_negotiate(&rng, FEATURE_VERSION_1), "a driver may know nothing of IOMMUs");
	virtio_queue(&rng, 0, RING_MAX, NO_VECTOR);
	virtio_driver_ok(&rng);
	ok(virtio_status(&rng) & STATUS_NEEDS_RESET, "but then it is not served");
	check_bypass();
	check_mappings();
	check_refusals();
	check_malformed();
	check_reset();
	equal(virtio_status(&iommu) & STATUS_NEEDS_RESET, 0, "it never needed a reset");
}

/* --- many --- */

/* As many as the ring holds, of pages that follow each other with a gap. How many were mapped. */
static unsigned map_some(unsigned from, unsigned n)
{
	unsigned good = 0;

	for (unsigned i = 0; i < n; i++) {
		uint64_t at = SHIFT + (uint64_t)(from + i) * 0x2000;

		asked[i].request = map_request(MAP, 1, at, at + 0xfff, (uint64_t)page, 3);
		virtio_give(&iommu, 0, &asked[i].request, sizes[MAP], asked[i].answer, 4);
	}
	virtio_kick(&iommu, 0);
	wait_for(&iommu, n);
	for (unsigned i = 0; i < n; i++) {
		virtio_take(&iommu, 0);
		good += asked[i].answer[0] == S_OK;
	}
	return good;
}

/* A second's work, or more. */
#define FILLS 5000

void test_viommu_many(void)
{
	unsigned want = (unsigned)boot_number("n", 262143), done = 0, bad = 0, good;
	uint64_t last;

	if (!set_up() || !equal(attach(1, endpoint, 0), S_OK, "the device is put into a domain"))
		return;
	equal(map(1, 0, 0xbfffffff, 0, MAP_READ | MAP_WRITE), S_OK, "the rings' memory is mapped");
	do {
		good = map_some(done, RING_MAX / 2);
		done += good;
	} while (good == RING_MAX / 2 && done < want);
	note("%u mappings", done);
	equal(done, want, "so many can be mapped");
	last = SHIFT + (uint64_t)(done - 1) * 0x2000 - (uint64_t)page;
	ok(start_rng() && fill(last) > FULL, "a device is told of all when it is started");
	/* Its process may be killed here. */
	note("all are told");
	for (unsigned i = 0; i < FILLS; i++)
		bad += fill(last) <= FULL;
	equal(bad, 0, "and when it comes back");
	equal(detach(1, endpoint), S_OK, "a detach takes all of them");
	ok(start_rng() && fill(0) > FULL, "the device goes on");
	equal(attach(1, endpoint, 0), S_OK, "it is put into a domain again");
	equal(map_some(0, 8), 8, "which is empty");
}

/* --- a device whose process dies --- */

void test_viommu_kill(void)
{
	uint64_t at = (uint64_t)page + SHIFT;
	unsigned bad = 0, n = (unsigned)boot_number("n", 600);

	if (!set_up() || !equal(attach(1, endpoint, 0), S_OK, "the device is put into a domain"))
		return;
	equal(map(1, 0, 0xbfffffff, 0, MAP_READ | MAP_WRITE), S_OK, "the rings' memory is mapped");
	ok(start_rng(), "and the device started");
	for (unsigned i = 0; i < n; i++) {
		bad += map(1, at, at + 0xfff, (uint64_t)page, MAP_READ | MAP_WRITE) != S_OK;
		bad += fill_while(SHIFT, map_another) <= FULL;
		bad += unmap(1, at, at + 0xfff) != S_OK;
		if (i % 100 == 99)
			note("%u rounds", i + 1);
	}
	equal(bad, 0, "each page that was mapped is filled");
}

/* --- a device that is another machine's --- */

#define TYPE_VVU     61
#define GET_FEATURES 1

static struct virtio vvu;
static struct message {
	uint32_t request, flags, size;
	uint64_t number;
} __attribute__((packed)) said;

/* With rings, and a buffer that the device sees elsewhere. It accepts no ACCESS_PLATFORM, as old drivers. */
static bool start_vvu(void)
{
	volatile uint64_t seen = (uint64_t)page + SHIFT;

	if (!virtio_negotiate(&vvu, FEATURE_VERSION_1))
		return false;
	virtio_queue(&vvu, 0, RING_MAX, NO_VECTOR);
	virtio_queue(&vvu, 1, RING_MAX, NO_VECTOR);
	virtio_driver_ok(&vvu);
	virtio_give(&vvu, 0, (void *)seen, 1, (void *)seen, sizeof(page));
	virtio_kick(&vvu, 0);
	write32(vvu.config, 1);
	note("up");
	return virtio_status(&vvu) == 15;
}

/* Take the sibling's question and answer it. */
static bool answer_one(uint64_t number)
{
	const struct message *asked_for = (const struct message *)page;

	while (!virtio_waiting(&vvu, 0))
		__builtin_ia32_pause();
	if (virtio_take(&vvu, 0) != 12 || asked_for->request != GET_FEATURES)
		return false;
	said = (struct message){ GET_FEATURES, 1 | 4, 8, number };
	virtio_give(&vvu, 1, &said, sizeof(said), page, 1);
	virtio_kick(&vvu, 1);
	while (!virtio_waiting(&vvu, 1))
		__builtin_ia32_pause();
	virtio_take(&vvu, 1);
	return true;
}

static bool map_vvu(void)
{
	uint64_t at = (uint64_t)page + SHIFT;

	return map(1, 0, 0xbfffffff, 0, MAP_READ | MAP_WRITE) == S_OK &&
	       map(1, at, at + 0xfff, (uint64_t)page, MAP_READ | MAP_WRITE) == S_OK;
}

void test_viommu_vvu(void)
{
	if (!start_iommu() || !ok(virtio_find(&vvu, TYPE_VVU, 0), "there is a VVU function"))
		return;
	vvu.bank = 1;
	endpoint = pci_slot(vvu.fn) << 3;
	equal(vvu.offered & FEATURE_ACCESS_PLATFORM, FEATURE_ACCESS_PLATFORM,
		"that says it is behind an IOMMU");
	equal(attach(1, endpoint, 0), S_OK, "it is put into a domain");
	ok(!start_vvu() && virtio_status(&vvu) & STATUS_NEEDS_RESET, "without mappings it does not start");
	ok(map_vvu(), "its rings and a buffer are mapped");
	ok(start_vvu() && answer_one(0x1af4), "a sibling is answered");
	equal(unmap(1, 0, ~0ull), S_OK, "all of it is unmapped");
	ok(virtio_status(&vvu) & STATUS_NEEDS_RESET, "it needs a reset");
	equal(read32(vvu.config), 0, "and nobody is up");
	ok(map_vvu(), "all is mapped again");
	ok(start_vvu() && answer_one(0x1af5), "and the next sibling answered");
	equal(detach(1, endpoint), S_OK, "a detach from its domain");
	ok(virtio_status(&vvu) & STATUS_NEEDS_RESET, "does the same");
	equal(virtio_status(&iommu) & STATUS_NEEDS_RESET, 0, "the IOMMU is well");
}
