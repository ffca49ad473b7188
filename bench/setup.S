/*
 * setup.S - the real-mode part of the bench images, of which loaders read only the header
 *
 * Two sectors; what a 64-bit loader jumps to is at 0x200 behind them. image.lds puts this part right
 * before the rest and knows the sizes.
 *
 * Spec: Linux, "The Linux/x86 Boot Protocol", version 2.15.
 */
	.section .setup.header, "a"
	.org	0x1f1
	.byte	1		/* setup_sects */
	.word	0		/* root_flags */
	.long	image_paras	/* syssize */
	.word	0, 0xffff, 0	/* ram_size, vid_mode: normal, root_dev */
	.word	0xaa55		/* boot_flag */
	.byte	0xeb, 0x6a	/* jump over the header, which ends at 0x26c */
	.ascii	"HdrS"
	.word	0x020f		/* version */
	.long	0		/* realmode_swtch */
	.word	0, 0		/* start_sys_seg, kernel_version */
	.byte	0, 1		/* type_of_loader; loadflags: LOADED_HIGH */
	.word	0		/* setup_move_size */
	.long	0x100000	/* code32_start */
	.long	0, 0, 0		/* ramdisk_image, ramdisk_size, bootsect_kludge */
	.word	0		/* heap_end_ptr */
	.byte	0, 0		/* ext_loader_ver, ext_loader_type */
	.long	0		/* cmd_line_ptr */
	.long	0x7fffffff	/* initrd_addr_max */
	.long	0x1000		/* kernel_alignment */
	.byte	1, 12		/* relocatable_kernel, min_alignment */
	.word	1		/* xloadflags: XLF_KERNEL_64 */
	.long	2047		/* cmdline_size */
	.long	0		/* hardware_subarch: PC */
	.quad	0		/* hardware_subarch_data */
	.long	0, 0		/* payload_offset, payload_length */
	.quad	0		/* setup_data */
	.quad	0x100000	/* pref_address */
	.long	image_memory	/* init_size */
	.long	0, 0		/* handover_offset, kernel_info_offset */
	.org	0x400
