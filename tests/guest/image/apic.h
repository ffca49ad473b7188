/*
 * apic.h - the local APIC, in either mode, and the IOAPIC
 *
 * In x2APIC mode registers are MSRs and cost a call into ring 0.
 */
#ifndef GUEST_APIC_H
#define GUEST_APIC_H

#include "x86.h"

#define LAPIC_BASE  0xfee00000ull
#define IOAPIC_BASE 0xfec00000ull

#define LAPIC_ID	 0x20
#define LAPIC_VERSION	 0x30
#define LAPIC_TPR	 0x80
#define LAPIC_EOI	 0xb0
#define LAPIC_SVR	 0xf0
#define LAPIC_ISR	 0x100
#define LAPIC_IRR	 0x200
#define LAPIC_ICR	 0x300
#define LAPIC_ICR_HI	 0x310
#define LAPIC_LVT_TIMER	 0x320
#define LAPIC_TIMER_INIT 0x380
#define LAPIC_TIMER_NOW	 0x390
#define LAPIC_TIMER_DIV	 0x3e0
#define LAPIC_SELF_IPI	 0x3f0

#define VECTOR_TIMEOUT 0x31

/* Software-enable the local APIC in the mode it is in. */
void apic_init(void);
/* What the first apic_init() found: the base MSR and the spurious vector register. */
uint64_t apic_first_base(void);
uint32_t apic_first_svr(void);
/* Switch to x2APIC mode. False: the MSR write faulted. There is no way back but a reset. */
bool apic_enable_x2apic(void);
bool apic_is_x2apic(void);
uint32_t apic_read(unsigned reg);
void apic_write(unsigned reg, uint32_t value);
/* Send an interrupt command to one APIC id. */
void apic_icr(uint32_t id, uint32_t low);
uint32_t apic_id(void);
/* Ring 0 only. */
void apic_eoi(void);
/*
 * True on a KVM that ends an interrupt when it delivers it, whatever the guest does (the PVM
 * type). A level that still stands is then delivered again at once, before its handler
 * could lower it, so that handlers run more often than there are causes.
 */
bool apic_ends_by_itself(void);
/* One interrupt on `vector` after ms milliseconds or longer. */
void apic_timer_start(uint8_t vector, unsigned ms);
void apic_timer_stop(void);

uint32_t ioapic_read(unsigned reg);
void ioapic_write(unsigned reg, uint32_t value);
#define IOAPIC_LEVEL  (1u << 15)
#define IOAPIC_LOW    (1u << 13)
#define IOAPIC_MASKED (1u << 16)
/* Deliver a pin to this CPU; flags of the above. */
void ioapic_route(unsigned pin, uint8_t vector, uint32_t flags);

#endif
