SUMMARY = "Board profile and memory limits of skerry for one machine"
DESCRIPTION = "The limits that fit the memory of the machine, as the lowest layer of the \
configuration and as a drop-in of the service."
LICENSE = "Apache-2.0"

require skerry-source.inc

S = "${UNPACKDIR}/skerry-${PV}"

# Only data, and different for each machine: the program itself is shared.
PACKAGE_ARCH = "${MACHINE_ARCH}"

# The boards of machines, in a variable of their own: an override of SKERRY_BOARD would go before
# what a product assigns to that.
SKERRY_MACHINE_BOARD = ""
SKERRY_MACHINE_BOARD:qemuarm64 = "qemu-arm64"
SKERRY_MACHINE_BOARD:qemux86-64 = "qemu-x86_64"
# Without a board the base profile is installed.
SKERRY_BOARD ?= "${SKERRY_MACHINE_BOARD}"
# Where board.toml and dropin.conf are; a product may bring its own, see README.md of the layer.
SKERRY_BOARD_DIR ?= "${S}/board/${SKERRY_BOARD}"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${datadir}/skerry
    install -m 0644 ${S}/board/base.toml ${D}${datadir}/skerry/base.toml
    if [ -n "${SKERRY_BOARD}" ]; then
        install -m 0644 ${SKERRY_BOARD_DIR}/board.toml ${D}${datadir}/skerry/board.toml
        install -d ${D}${nonarch_libdir}/systemd/system/skerry.service.d
        install -m 0644 ${SKERRY_BOARD_DIR}/dropin.conf \
            ${D}${nonarch_libdir}/systemd/system/skerry.service.d/50-board.conf
    else
        install -m 0644 ${S}/board/base.toml ${D}${datadir}/skerry/board.toml
    fi
}

FILES:${PN} += "\
    ${datadir}/skerry/base.toml \
    ${datadir}/skerry/board.toml \
    ${nonarch_libdir}/systemd/system/skerry.service.d/50-board.conf \
"
