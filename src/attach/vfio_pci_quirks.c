/*
 * vfio_pci_quirks.c - capabilities that a guest must not see, and one that it is given
 *
 * A capability stays unless what it promises can not be kept: by a function that is alone in its
 * slot, that has no IOMMU the guest knows of, and whose BARs are as large as they are. hidden[] is
 * the whole list, with the reason for each row. There is no row for a device of its own: what
 * others keep long lists of (wrong places of the pending bits, MSI-X tables among registers) is
 * dealt with for all devices, by what they say of themselves (vfio_pci_irq.c); broken resets and
 * interrupt pins are the host kernel's to know.
 *
 * A hidden capability of the standard list is left out of it. One of the extended list stays in its
 * place as one that means nothing (id 0), as the list begins at a fixed address. Reads of it give
 * 0, writes are dropped.
 *
 * Added is NVIDIA's approval of peer-to-peer DMA between GPUs of one clique, where the user says
 * that they reach one another: without it NVIDIA's driver believes no virtual machine.
 */
#include <errno.h>
#include <string.h>

#include "attach/vfio_pci_priv.h"

#ifndef PCI_EXT_CAP_ID_VF_REBAR
#define PCI_EXT_CAP_ID_VF_REBAR 0x24
#endif

enum { STANDARD = 0, EXTENDED = 1 };

static const struct vp_hidden hidden[] = {
	{ STANDARD, PCI_CAP_ID_EA, 0, "it fixes BARs at addresses of the host's" },
	{ EXTENDED, PCI_EXT_CAP_ID_ARI, 8,
		"it speaks of functions that its slot here does not have" },
	{ EXTENDED, PCI_EXT_CAP_ID_SRIOV, PCI_EXT_CAP_SRIOV_SIZEOF,
		"its virtual functions would appear on the host, not here" },
	{ EXTENDED, PCI_EXT_CAP_ID_MRIOV, 4, "as SR-IOV, for several hosts" },
	{ EXTENDED, PCI_EXT_CAP_ID_REBAR, 4 + 6 * 8,
		"a BAR of another size would be another region, and VFIO cannot be asked for one" },
	{ EXTENDED, PCI_EXT_CAP_ID_VF_REBAR, 4 + 6 * 8, "there are no virtual functions" },
	{ EXTENDED, PCI_EXT_CAP_ID_ATS, PCI_EXT_CAP_ATS_SIZEOF,
		"it asks an IOMMU for translations, and the guest has none for this device" },
	{ EXTENDED, PCI_EXT_CAP_ID_PRI, PCI_EXT_CAP_PRI_SIZEOF,
		"it asks an IOMMU for pages, and all of RAM is pinned" },
	{ EXTENDED, PCI_EXT_CAP_ID_PASID, PCI_EXT_CAP_PASID_SIZEOF,
		"it names address spaces of an IOMMU that the guest does not have" },
	{ EXTENDED, PCI_EXT_CAP_ID_TPH, 12, "its steering tags name processors of the host's" },
};

const struct vp_hidden *vp_hidden_cap(bool extended, unsigned id)
{
	for (unsigned i = 0; i < ARRAY_SIZE(hidden); i++)
		if (hidden[i].extended == extended && hidden[i].id == id)
			return &hidden[i];
	return NULL;
}

unsigned vp_nr_hidden_caps(const struct vp_hidden **list)
{
	*list = hidden;
	return ARRAY_SIZE(hidden);
}

/* --- NVIDIA's GPUDirect clique --- */

#define NVIDIA	      0x10de
#define CLASS_DISPLAY 0x03
#define CLIQUE_LEN    8u
#define HEADER_SIZE   0x40u
#define STANDARD_END  0x100u

/* Where its driver looked first, before later GPUs needed the place themselves, and where it does
 * now. */
static const uint8_t clique_places[] = { 0xd4, 0xc8 };

/* Bytes of a standard capability; 0: not known to us. */
static unsigned cap_length(const uint8_t *cap, unsigned room)
{
	switch (cap[0]) {
	case PCI_CAP_ID_PM:
		return PCI_PM_SIZEOF;
	case PCI_CAP_ID_MSIX:
		return PCI_CAP_MSIX_SIZEOF;
	case PCI_CAP_ID_MSI:
		return 24;
	case PCI_CAP_ID_EXP:
		return VP_CAP_EXP_V2_LEN;
	case PCI_CAP_ID_VPD:
		return PCI_CAP_VPD_SIZEOF;
	case PCI_CAP_ID_SSVID:
		return 8;
	case PCI_CAP_ID_AF:
		return PCI_CAP_AF_SIZEOF;
	case PCI_CAP_ID_VNDR:
		return room > 2 ? cap[2] : 0;
	default:
		return 0;
	}
}

/* Mark what belongs to the capability at pos: all up to the next one if its length is not known. */
static void mark_cap(const struct vfio_pci *vp, const bool *starts, unsigned pos, bool *used)
{
	unsigned len = cap_length(vp->first + pos, STANDARD_END - pos);

	for (unsigned i = pos; i < STANDARD_END; i++) {
		if (len ? i - pos >= len : i > pos && starts[i])
			break;
		used[i] = true;
	}
}

/* Also the ones that are hidden have their place. The list was checked when the rest was built:
 * bounded anyway. */
static void mark_caps(const struct vfio_pci *vp, bool *used)
{
	bool starts[STANDARD_END] = { false };
	unsigned pos = vp->first[PCI_CAPABILITY_LIST] & ~3u;

	for (unsigned n = 0; pos >= HEADER_SIZE && !starts[pos] && n < 48; n++) {
		starts[pos] = true;
		pos = vp->first[pos + 1] & ~3u;
	}
	for (pos = HEADER_SIZE; pos < STANDARD_END; pos += 4)
		if (starts[pos])
			mark_cap(vp, starts, pos, used);
}

static bool is_free(const struct vfio_pci *vp, const bool *used, unsigned pos)
{
	for (unsigned i = pos; i < pos + CLIQUE_LEN; i++)
		if (used[i] || vp->first[i])
			return false;
	return true;
}

static unsigned find_place(const struct vfio_pci *vp)
{
	bool used[STANDARD_END] = { false };

	mark_caps(vp, used);
	for (unsigned i = 0; i < ARRAY_SIZE(clique_places); i++)
		if (is_free(vp, used, clique_places[i]))
			return clique_places[i];
	for (unsigned pos = STANDARD_END - CLIQUE_LEN; pos >= HEADER_SIZE; pos -= 4)
		if (is_free(vp, used, pos))
			return pos;
	return 0;
}

/* A vendor's capability of 8 bytes: the letters P2P, version 0 in bits 2:0 and the clique in bits
 * 6:3. */
int vp_add_clique(struct vfio_pci *vp, struct err *err)
{
	uint8_t *c = vp->fn.config;
	unsigned pos;

	if (vp->options.gpudirect_clique == VFIO_PCI_NO_CLIQUE)
		return 0;
	if (pci_config_get(&vp->fn, PCI_VENDOR_ID, 2) != NVIDIA ||
		c[PCI_CLASS_DEVICE + 1] != CLASS_DISPLAY)
		return err_set(err, -EINVAL,
			"x_nv_gpudirect_clique is for NVIDIA GPUs; this is %04x:%04x of class %02x%02x",
			pci_config_get(&vp->fn, PCI_VENDOR_ID, 2),
			pci_config_get(&vp->fn, PCI_DEVICE_ID, 2), c[PCI_CLASS_DEVICE + 1],
			c[PCI_CLASS_DEVICE]);
	pos = vp->config_size >= STANDARD_END ? find_place(vp) : 0;
	if (!pos)
		return err_set(err, -ENOSPC,
			"x_nv_gpudirect_clique: the configuration space has no 8 bytes left for it");
	memcpy(c + pos,
		(uint8_t[CLIQUE_LEN]){ PCI_CAP_ID_VNDR, c[PCI_CAPABILITY_LIST], CLIQUE_LEN, 'P',
			'2', 'P', (uint8_t)(vp->options.gpudirect_clique << 3) },
		CLIQUE_LEN);
	memset(vp->local + pos, 0xff, CLIQUE_LEN);
	c[PCI_CAPABILITY_LIST] = (uint8_t)pos;
	c[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	return 0;
}
