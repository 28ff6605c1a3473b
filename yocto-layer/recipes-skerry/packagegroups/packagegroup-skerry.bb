SUMMARY = "A connected container registry, set up for this machine"
DESCRIPTION = "The program, its units and user, \
and the board profile of the machine that it is built for."

PACKAGE_ARCH = "${MACHINE_ARCH}"

inherit packagegroup

RDEPENDS:${PN} = " \
    skerry \
    skerry-conf \
"
