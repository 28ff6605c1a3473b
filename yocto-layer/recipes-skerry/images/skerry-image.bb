SUMMARY = "Read-only image with a connected container registry"
DESCRIPTION = "Boots to a registry on a read-only root file system, of which there are \
two slots that an updater may use; the state is on a partition of its own."
LICENSE = "MIT"

inherit core-image

IMAGE_FEATURES += "read-only-rootfs"
IMAGE_INSTALL:append = " packagegroup-skerry skerry-data"

IMAGE_FSTYPES += "ext4 wic"
WKS_FILE = "skerry-ab.wks"
