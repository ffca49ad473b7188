#!/bin/bash
#
# vfio-wrong-amd.sh - vfio-wrong.sh behind AMD's IOMMU
iommu=amd
# shellcheck source-path=SCRIPTDIR source=vfio-wrong.sh
. "$(dirname "${BASH_SOURCE[0]}")/vfio-wrong.sh"
