/*
 * setup.S - the real-mode part of a bzImage, of which only the header matters
 *
 * A loader of the 32- or 64-bit boot protocol reads the header at 0x1f1 and
 * never runs this part. Two sectors: the boot sector and one setup sector.
 * Linux, Documentation/arch/x86/boot.rst, protocol 2.15.
 *
 * The linker script puts it right before the image and knows the sizes.
 */
	.section .setup.0, "a"
	.org	0x1f1
	.byte	1			/* setup_sects */
	.word	0			/* root_flags */
	/* 0x1f4: syssize, in paragraphs: from image.lds */
	.section .setup.1, "a"		/* 0x1f8 */
	.word	0			/* ram_size */
	.word	0xffff			/* vid_mode: normal */
	.word	0			/* root_dev */
	.word	0xaa55			/* boot_flag */
	.byte	0xeb, 0x6a		/* jump: over the header, which ends at 0x26c */
	.ascii	"HdrS"
	.word	0x020f			/* version */
	.long	0			/* realmode_swtch */
	.word	0			/* start_sys_seg */
	.word	0			/* kernel_version: no text */
	.byte	0			/* type_of_loader */
	.byte	0x01			/* loadflags: LOADED_HIGH */
	.word	0			/* setup_move_size */
	.long	0x100000		/* code32_start */
	.long	0			/* ramdisk_image */
	.long	0			/* ramdisk_size */
	.long	0			/* bootsect_kludge */
	.word	0			/* heap_end_ptr */
	.byte	0			/* ext_loader_ver */
	.byte	0			/* ext_loader_type */
	.long	0			/* cmd_line_ptr */
	.long	0x7fffffff		/* initrd_addr_max */
	.long	0x1000			/* kernel_alignment */
	.byte	1			/* relocatable_kernel */
	.byte	12			/* min_alignment */
	.word	0x0001			/* xloadflags: XLF_KERNEL_64 */
	.long	2047			/* cmdline_size */
	.long	0			/* hardware_subarch: PC */
	.quad	0			/* hardware_subarch_data */
	.long	0			/* payload_offset */
	.long	0			/* payload_length */
	.quad	0			/* setup_data */
	.quad	0x1000000		/* pref_address */
	/* 0x260: init_size: from image.lds */
	.section .setup.2, "a"		/* 0x264 */
	.long	0			/* handover_offset */
	.long	0			/* kernel_info_offset */
	.org	0x400 - 0x264
