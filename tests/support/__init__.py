"""What the live tests stand on: images made here, runc containers, a containerd with its CRI."""
