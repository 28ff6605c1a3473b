SUMMARY = "Mounts that keep the state of skerry on a data partition"
DESCRIPTION = "Mounts the partition with the label skerry-data at /data, and from there the state and \
the configuration of this one device; the service starts only with its state there."
LICENSE = "Apache-2.0"

require skerry-source.inc

S = "${UNPACKDIR}/skerry-${PV}"

inherit systemd features_check

REQUIRED_DISTRO_FEATURES = "systemd"

SYSTEMD_SERVICE:${PN} = " \
    data.mount \
    etc-skerry-conf.d.mount \
    skerry-data-look.service \
    skerry-data.service \
    skerry-data.timer \
    var-lib-skerry.mount \
"
SYSTEMD_AUTO_ENABLE:${PN} = "enable"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    # Where the partition is mounted: a root file system that is read-only must have the place.
    install -d ${D}/data

    install -d ${D}${systemd_system_unitdir}/data.mount.d \
        ${D}${systemd_system_unitdir}/skerry.service.d \
        ${D}${systemd_system_unitdir}/skerry.socket.d \
        ${D}${systemd_system_unitdir}/skerry-confirm.service.d
    install -m 0644 ${S}/systemd/data/data.mount ${D}${systemd_system_unitdir}/
    install -m 0644 ${S}/systemd/data/var-lib-skerry.mount ${D}${systemd_system_unitdir}/
    install -m 0644 ${S}/systemd/data/etc-skerry-conf.d.mount ${D}${systemd_system_unitdir}/
    install -m 0644 ${S}/systemd/data/skerry-data.service ${D}${systemd_system_unitdir}/
    install -m 0644 ${S}/systemd/data/skerry-data-look.service ${D}${systemd_system_unitdir}/
    install -m 0644 ${S}/systemd/data/skerry-data.timer ${D}${systemd_system_unitdir}/
    install -m 0644 ${S}/systemd/dropins/data.conf \
        ${D}${systemd_system_unitdir}/skerry.service.d/20-data.conf
    install -m 0644 ${S}/systemd/dropins/data-lazy.conf \
        ${D}${systemd_system_unitdir}/data.mount.d/10-lazy.conf
    install -m 0644 ${S}/systemd/dropins/data-socket.conf \
        ${D}${systemd_system_unitdir}/skerry.socket.d/20-data.conf
    install -m 0644 ${S}/systemd/dropins/data-confirm.conf \
        ${D}${systemd_system_unitdir}/skerry-confirm.service.d/20-data.conf

    # Vendor's settings are looked for there, whatever libdir is.
    install -d ${D}${nonarch_libdir}/skerry/conf.d ${D}${nonarch_libdir}/tmpfiles.d
    install -m 0644 ${S}/systemd/data/50-data.toml ${D}${nonarch_libdir}/skerry/conf.d/
    install -m 0644 ${S}/systemd/data/tmpfiles.conf ${D}${nonarch_libdir}/tmpfiles.d/skerry-data.conf
}

FILES:${PN} += "\
    /data \
    ${nonarch_libdir}/skerry/conf.d/50-data.toml \
    ${nonarch_libdir}/tmpfiles.d/skerry-data.conf \
    ${systemd_system_unitdir}/data.mount.d/10-lazy.conf \
    ${systemd_system_unitdir}/skerry.service.d/20-data.conf \
    ${systemd_system_unitdir}/skerry.socket.d/20-data.conf \
    ${systemd_system_unitdir}/skerry-confirm.service.d/20-data.conf \
"

# systemd-fsck does nothing without them.
RDEPENDS:${PN} = "e2fsprogs-e2fsck skerry util-linux-fsck"
