#!/bin/bash
#
# vfio-amd.sh - vfio.sh behind AMD's IOMMU
iommu=amd
# shellcheck source-path=SCRIPTDIR source=vfio.sh
. "$(dirname "${BASH_SOURCE[0]}")/vfio.sh"
