#!/bin/bash
#
# vfio-viommu-amd.sh - vfio-viommu.sh behind AMD's IOMMU
iommu=amd
# shellcheck source-path=SCRIPTDIR source=vfio-viommu.sh
. "$(dirname "${BASH_SOURCE[0]}")/vfio-viommu.sh"
