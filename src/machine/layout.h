/*
 * layout.h - where things are in the guest's address spaces
 *
 * The map is the one that users of Cloud Hypervisor's guests know. Addresses of
 * three kinds stand here: memory, I/O ports and interrupt lines (GSIs).
 */
#ifndef MACHINE_LAYOUT_H
#define MACHINE_LAYOUT_H

#include "base/util.h"

/* Low memory, for the boot loader and tables (boot.c, acpi.c) */
#define LAYOUT_GDT	   0x500ull
#define LAYOUT_PVH_INFO	   0x6000ull
#define LAYOUT_PVH_MODULES 0x6040ull
#define LAYOUT_ZERO_PAGE   0x7000ull /* bzImage's boot_params, or the PVH memory map */
#define LAYOUT_STACK	   0x8ff0ull
#define LAYOUT_PAGE_TABLES 0x9000ull /* PML4, PDPT, 4 page directories, up to 0xf000 */
#define LAYOUT_CMDLINE	   0x20000ull
#define LAYOUT_CMDLINE_MAX 0x10000ull
#define LAYOUT_EBDA	   0xa0000ull /* usable low RAM ends here; RSDP and ACPI tables follow */
#define LAYOUT_RSDP	   0xa0000ull
#define LAYOUT_ACPI_MAX	   0x50000ull /* tables end below SMBIOS */
#define LAYOUT_SMBIOS	   0xf0000ull
#define LAYOUT_RESET_ENTRY 0xffff0ull /* where real mode starts, and where guests jump to restart */
#define LAYOUT_HIGH_RAM	   0x100000ull

/* The 32-bit hole */
#define LAYOUT_HOLE	    0xc0000000ull /* RAM above 3 GiB goes on at 4 GiB */
#define LAYOUT_MMIO32	    0xc0000000ull
#define LAYOUT_MMIO32_SIZE  (640 * MIB)
#define LAYOUT_ECAM	    0xe8000000ull
#define LAYOUT_ECAM_SIZE    (256 * MIB)
#define LAYOUT_ECAM_SEGMENT (1 * MIB) /* one bus each */
#define LAYOUT_KVM_TSS	    0xf8000000ull /* three pages */
#define LAYOUT_KVM_IDENTITY 0xf8003000ull
#define LAYOUT_IOAPIC	    0xfec00000ull
#define LAYOUT_INTREMAP	    0xfed90000ull /* interrupt remapping units, a page for each segment */
#define LAYOUT_INTREMAP_UNIT 0x1000ull
#define LAYOUT_LAPIC	    0xfee00000ull
#define LAYOUT_4G	    (4 * GIB)

/* The AMD HyperTransport hole: no RAM and no BAR may lie here on an AMD host. */
#define LAYOUT_HT_HOLE	    0xfd00000000ull
#define LAYOUT_HT_HOLE_SIZE 0x0300000000ull

/* The top of the address space: 64 KiB kept free, 1 MiB of platform devices below it */
#define LAYOUT_TOP_RESERVED  (64 * KIB)
#define LAYOUT_PLATFORM_SIZE (1 * MIB)
/* Offsets in the platform device area */
#define LAYOUT_PLATFORM_GED	    0x0ull
#define LAYOUT_PLATFORM_CPU_HOTPLUG 0x1000ull
#define LAYOUT_PLATFORM_MEM_HOTPLUG 0x2000ull
#define LAYOUT_PLATFORM_PCI_HOTPLUG 0x3000ull

#define LAYOUT_DEFAULT_PHYS_BITS 46

/* I/O ports */
#define PORT_I8042_DATA	  0x60
#define PORT_SYSTEM_B	  0x61
#define PORT_I8042_STATUS 0x64
#define PORT_RTC_INDEX	  0x70
#define PORT_RTC_DATA	  0x71
#define PORT_DEBUG	  0x80 /* boot progress codes */
#define PORT_COM1	  0x3f8
#define PORT_SLEEP	  0x600 /* ACPI sleep control and reset */
#define PORT_SLEEP_STATUS 0x601
#define PORT_PM_TIMER	  0x608
#define PORT_PCI_ADDRESS  0xcf8
#define PORT_PCI_DATA	  0xcfc
/* Where I/O BARs may be; only segment 0 has I/O space */
#define LAYOUT_PCI_IO	   0x1000ull
#define LAYOUT_PCI_IO_SIZE 0xf000ull

/* GSIs: the IOAPIC's 24 pins, then MSI routes */
#define GSI_COM1	 4
#define GSI_GED		 9
#define GSI_INTX_BASE	 16
#define GSI_INTX_COUNT	 8
#define GSI_IOAPIC_COUNT 24
#define GSI_MSI_BASE	 24

#define LAYOUT_MAX_VCPUS    254
#define LAYOUT_MAX_SEGMENTS 96
#define LAYOUT_PCI_SLOTS    32

#endif
