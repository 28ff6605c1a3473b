SUMMARY = "A connected container registry, set up for this machine"
DESCRIPTION = "The program and the board profile of the machine."

PACKAGE_ARCH = "${MACHINE_ARCH}"

inherit packagegroup

RDEPENDS:${PN} = " \
    skerry \
    skerry-conf \
"
