SUMMARY = "Connected container registry for the edge"
DESCRIPTION = "Mirrors the repositories that its parent grants, hands out its own tokens, and \
serves the local network while the uplink is down."
# The program and the crates that are linked into it; of alternatives the one that is used.
LICENSE = "Apache-2.0 & MIT & BSD-3-Clause & ISC & Unicode-3.0 & CDLA-Permissive-2.0"

require skerry-source.inc
require skerry-crates.inc

inherit cargo cargo-update-recipe-crates systemd useradd features_check

REQUIRED_DISTRO_FEATURES = "systemd"

# The build of the package strips, and refuses what comes stripped (QA check already-stripped).
export CARGO_PROFILE_RELEASE_STRIP = "false"

# The C of crates is compiled with debug information, which would name the build directory that
# the crates are unpacked to (QA check buildpaths).
DEBUG_PREFIX_MAP += "-ffile-prefix-map=${CARGO_HOME}=${TARGET_DBGSRC_DIR}"

# The loaders of this layer's series read packed relative relocations; without them the program is
# larger by a twentieth. A linker that cannot pack them says that it ignores the option.
RUSTFLAGS:append = " -C link-arg=-Wl,-z,pack-relative-relocs"

# The socket takes the place of listen.login, so it is in a package of its own, which no other one
# asks for, and stays disabled until the product enables it. That package comes after this one, for
# the class lets it ask for skerry.service too.
PACKAGES += "${PN}-socket"
SYSTEMD_PACKAGES = "${PN} ${PN}-socket"
SYSTEMD_SERVICE:${PN} = "skerry.service skerry-confirm.service"
SYSTEMD_AUTO_ENABLE:${PN} = "enable"
SYSTEMD_SERVICE:${PN}-socket = "skerry.socket"
SYSTEMD_AUTO_ENABLE:${PN}-socket = "disable"

USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system --gid 812 skerry"
USERADD_PARAM:${PN} = "--system --uid 812 --gid skerry --home-dir ${localstatedir}/lib/skerry \
--no-create-home --shell ${base_sbindir}/nologin skerry"

do_install:append() {
    install -d ${D}${systemd_system_unitdir}/skerry.service.d
    install -m 0644 ${S}/systemd/skerry.service ${D}${systemd_system_unitdir}/
    install -m 0644 ${S}/systemd/skerry-confirm.service ${D}${systemd_system_unitdir}/
    install -m 0644 ${S}/systemd/skerry.socket ${D}${systemd_system_unitdir}/
    install -m 0644 ${S}/systemd/dropins/backoff.conf \
        ${D}${systemd_system_unitdir}/skerry.service.d/10-backoff.conf

    install -d ${D}${systemd_unitdir}/system-preset
    install -m 0644 ${S}/systemd/system-preset/50-skerry.preset ${D}${systemd_unitdir}/system-preset/

    install -d ${D}${nonarch_libdir}/sysusers.d ${D}${nonarch_libdir}/tmpfiles.d
    install -m 0644 ${S}/systemd/sysusers.d/skerry.conf ${D}${nonarch_libdir}/sysusers.d/
    install -m 0644 ${S}/systemd/tmpfiles.d/skerry.conf ${D}${nonarch_libdir}/tmpfiles.d/

    install -d ${D}${sysconfdir}/skerry/conf.d
    install -m 0644 ${S}/systemd/skerry.toml ${D}${sysconfdir}/skerry/skerry.toml

    # Where the units say that it is: what is in docdir is in a package that images leave out.
    install -d ${D}${datadir}/skerry
    install -m 0644 ${S}/README.md ${D}${datadir}/skerry/
}

FILES:${PN} += "\
    ${systemd_system_unitdir}/skerry.service \
    ${systemd_system_unitdir}/skerry-confirm.service \
    ${systemd_system_unitdir}/skerry.service.d/10-backoff.conf \
    ${systemd_system_unitdir}/skerry.service.d \
    ${systemd_system_unitdir}/skerry-confirm.service.d \
    ${systemd_unitdir}/system-preset/50-skerry.preset \
    ${nonarch_libdir}/sysusers.d/skerry.conf \
    ${nonarch_libdir}/tmpfiles.d/skerry.conf \
    ${datadir}/skerry/README.md \
"

# Its file is added by the class.
RDEPENDS:${PN}-socket = "${PN}"

CONFFILES:${PN} = "${sysconfdir}/skerry/skerry.toml"

RRECOMMENDS:${PN} = "skerry-conf"
