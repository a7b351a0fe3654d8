#include <doctest/doctest.h>
#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "dirigo/core/special.hpp"

using namespace dirigo;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kUlp = std::numeric_limits<double>::epsilon();

const nlohmann::json& golden() {
  static const nlohmann::json values =
      nlohmann::json::parse(std::ifstream(DIRIGO_TEST_DIR "/golden/special.json"));
  return values;
}

double number(const nlohmann::json& value) {
  return std::stod(value.get<std::string>());
}

double relative_error(double got, double expected) {
  return std::fabs(got - expected) / std::fabs(expected);
}

struct UnaryValue {
  double x, lgamma, digamma, trigamma;
};

// Computed with mpmath at 60 digits from the exact binary x: roots, ends of the domain and seams of the
// method.
const UnaryValue kUnary[] = {
    {1.1117, -0.054732765296007018696, -0.40711155521062112208, 1.4118248706412241519},
    {1.8117, -0.06769917022691263962, 0.29357836643259372619, 0.73089397124676244031},
    {1.8116, -0.067728524409000117973, 0.29350527445779304579, 0.73094552594324179187},
    {1e-150, 345.3877639491068526, -9.999999999999999937e+149, 9.9999999999999998741e+299},
    {1e-20, 46.051701859880913735, -1.0000000000000000549e+20, 1.0000000000000001097e+40},
    {0.4999999999, 0.57236494312105110594, -1.9635100265149037404, 4.9348022022275591136},
    {0.5, 0.57236494292470008707, -1.9635100260214234794, 4.9348022005446793094},
    {0.75, 0.20328095143129537148, -1.0858608797864721696, 2.5418796476716064984},
    {0.999, 0.00057803853289138023817, -0.57886180210864542792, 1.6473414317770505536},
    {0.9999999999, 5.77215712742817838e-11, -0.57721566506602628091, 1.644934067088637837},
    {1.0000000001, -5.772157125783244041e-11, -0.57721566473703944032, 1.644934066607815036},
    {1.0000000000000002, -1.2816762426960008403e-16, -0.57721566490153249536, 1.6449340668482259027},
    {1.2, -0.085374090003315836884, -0.28903989659218835183, 1.2673772054237791889},
    {1.2117, -0.088669503185793178868, -0.27431188916513432333, 1.2503035924279463242},
    {1.4616321449683622, -0.1214862905358496081, -9.2412655217294275168e-17, 0.967672245447621255},
    {1.4616321449683625, -0.1214862905358496081, 1.2245374622004069031e-16, 0.96767224544762105837},
    {1.5, -0.12078223763524522235, 0.036489973978576520559, 0.93480220054467930942},
    {1.7116, -0.093335329839303535231, 0.217708962576647612, 0.7862847534770860723},
    {1.7117, -0.093313555011721084757, 0.21778758808265326083, 0.7862253680821661472},
    {1.9999999999, -4.2278437004755316937e-11, 0.42278433503397372737, 0.64493406688863782045},
    {2.0000000001, 4.2278437011204658672e-11, 0.42278433516296055141, 0.6449340668078150525},
    {2.4999999999, 0.28468287040260348975, 0.70315664059620740756, 0.49035775612385527209},
    {2.5, 0.28468287047291915963, 0.70315664064524318723, 0.49035775610023486497},
    // Where a shift by ten or by one would cancel most.
    {1.09784111, -0.048954257666064924678, -0.42685362114299449315, 1.4373283755705691384},
    {1.10731429829, -0.052933692154121935388, -0.41332086342872842864, 1.4198036037114196605},
    {1.379128, -0.1181068390600553093, -0.083004036877916370335, 1.0464056431821068385},
    {1.466264444, -0.1214759229269565426, 0.0044730719272295975721, 0.96358679852726492775},
    {1.86785978245, -0.050074214203378323252, 0.33383253423432879762, 0.70301553549275246571},
    {1.96419511, -0.014721221213988764649, 0.3994296663281162177, 0.65972685564022867405},
    {2.0000000000000004, 1.8775396131086243061e-16, 0.4227843350984674258, 0.64493406684822625701},
    {2.9999999999999996, 0.69314718055994489962, 0.92278433509846696401, 0.39493406684822650491},
    {3.0, 0.69314718055994530942, 0.92278433509846713939, 0.39493406684822643647},
    {5.3, 3.6396360690666855998, 1.5704109316248084634, 0.20759088902249808925},
    {9.999999999999998, 12.801827480081465611, 2.2517525890667209208, 0.10516633568168576575},
    {10.0, 12.801827480081469611, 2.2517525890667211076, 0.10516633568168574612},
    {1000.0, 5905.2204232091812118, 6.9072551956488120521, 0.0010005001666666333334},
    {1000000000000000.0, 33538776394910668.91, 34.53877639491068476, 1.0000000000000005e-15},
    {1e+300, 6.8977552789821374147e+302, 690.77552789821370526, 9.999999999999999475e-301},
};

struct DrawDerivative {
  double a, y, d;
};

// The same for D(a, y), by the formulas of tests/golden/generate.py: x near 1 and near a, both tails.
const DrawDerivative kDrawDerivatives[] = {
    {0.001, -10000.0, 9999424.4280681894914},
    {0.001, -6.907755278989045, 6339.5111186238186282},
    {0.001, -3.0, 2599.6438525093945208},
    {0.001, 0.0, 597.22297749594487453},
    {0.001, 0.5, 418.81493163544552741},
    {0.3, -40.0, 132.76936370377733979},
    {0.3, -3.0, 9.906941227302173122},
    {0.3, -1.2039728043259361, 5.0866660573992360922},
    {0.3, 0.0, 2.7349283141115390679},
    {0.3, 0.5, 2.0182741782786629598},
    {0.999, -10000.0, 10010.432571770663027},
    {0.999, -6.907755278982137, 7.3411540247999210917},
    {0.999, -0.0010005003335845349, 1.1749105385420079002},
    {0.999, -1e-09, 1.1743324756524633701},
    {0.999, 1e-09, 1.1743324744970884308},
    {0.999, 2.0790664087950232, 0.34637046994119002736},
    {1.0, -40.0, 40.422784335098467226},
    {1.0, -3.0, 3.5222180250390849446},
    {1.0, 0.0, 1.1735630272247269349},
    {1.0, 0.5, 0.90694787804564309743},
    {5.0, -40.0, 8.3412235336863601005},
    {5.0, -3.0, 0.94936983754925875809},
    {5.0, 0.0, 0.41468824768962705694},
    {5.0, 0.5, 0.34169621280382719069},
    {5.0, 1.6094379124357099, 0.20678387042237518323},
    {30.0, -10000.0, 333.44725904886729527},
    {30.0, -3.0, 0.21427155517884396103},
    {30.0, 0.0, 0.11775608803331110458},
    {30.0, 0.5, 0.102775676164265446},
    {30.0, 3.4011973816621555, 0.033519123902757008853},
    {30.0, 4.005675490200534, 0.024401308586254237395},
    {1000.0, -40.0, 0.046908255195648812052},
    {1000.0, -1e-09, 0.0069151644449342155354},
    {1000.0, 1e-09, 0.0069151644429460478406},
    {1000.0, 6.772518311082972, 0.0010693202043980312375},
    {1000.0, 6.907755278989045, 0.0010001666833203513729},
};

}  // namespace

TEST_CASE("lgamma, digamma and trigamma agree with 25-digit values to 1e-12 relative") {
  REQUIRE(golden()["unary"].size() >= 400);
  for (const auto& row : golden()["unary"]) {
    const double x = number(row["x"]);
    CAPTURE(x);
    CHECK(relative_error(special::lgamma(x), number(row["lgamma"])) <= 1e-12);
    CHECK(relative_error(special::digamma(x), number(row["digamma"])) <= 1e-12);
    CHECK(relative_error(special::trigamma(x), number(row["trigamma"])) <= 1e-12);
  }
}

TEST_CASE("lgamma, digamma and trigamma are within 8 ulp at exact arguments, at roots and seams too") {
  for (const UnaryValue& value : kUnary) {
    CAPTURE(value.x);
    CHECK(relative_error(special::lgamma(value.x), value.lgamma) <= 4 * kUlp);
    CHECK(relative_error(special::digamma(value.x), value.digamma) <= 8 * kUlp);
    CHECK(relative_error(special::trigamma(value.x), value.trigamma) <= 8 * kUlp);
  }
  CHECK(special::lgamma(1.0) == 0.0);
  CHECK(special::lgamma(2.0) == 0.0);
}

TEST_CASE("gamma_family has the same bits as the single functions") {
  for (const auto& row : golden()["unary"]) {
    const double x = number(row["x"]);
    const special::GammaFamily all = special::gamma_family(x);
    CHECK(all.lgamma == special::lgamma(x));
    CHECK(all.digamma == special::digamma(x));
    CHECK(all.trigamma == special::trigamma(x));
  }
}

TEST_CASE("the Gamma family at the ends of its domain and outside") {
  CHECK(special::lgamma(kInfinity) == kInfinity);
  CHECK(special::digamma(kInfinity) == kInfinity);
  CHECK(special::trigamma(kInfinity) == 0.0);
  CHECK(special::trigamma(1e-300) == kInfinity);
  for (const double x : {0.0, -0.5, -kInfinity, std::numeric_limits<double>::quiet_NaN()}) {
    CAPTURE(x);
    CHECK(std::isnan(special::lgamma(x)));
    CHECK(std::isnan(special::digamma(x)));
    CHECK(std::isnan(special::trigamma(x)));
    CHECK(std::isnan(special::gamma_family(x).lgamma));
    CHECK(std::isnan(special::gamma_family(x).digamma));
    CHECK(std::isnan(special::gamma_family(x).trigamma));
  }
}

TEST_CASE("the derivative of a log-Gamma draw agrees with high-precision values") {
  REQUIRE(golden()["gamma_draw_derivative"].size() >= 400);
  double worst = 0;
  for (const auto& row : golden()["gamma_draw_derivative"]) {
    const double a = number(row["a"]), y = number(row["y"]);
    const double error = relative_error(special::log_gamma_draw_derivative(a, y), number(row["D"]));
    worst = std::max(worst, error);
    CAPTURE(a);
    CAPTURE(y);
    CHECK(error <= 1e-11);
  }
  CHECK(worst <= 1e-13);  // what the scheme reaches
}

TEST_CASE("the derivative of a log-Gamma draw at seams and in far tails, a from 0.001 to 1000") {
  for (const DrawDerivative& value : kDrawDerivatives) {
    CAPTURE(value.a);
    CAPTURE(value.y);
    CHECK(relative_error(special::log_gamma_draw_derivative(value.a, value.y), value.d) <= 1e-12);
  }
}

TEST_CASE("the derivative of a log-Gamma draw in closed form, in its limits and outside its domain") {
  using special::log_gamma_draw_derivative;
  // x -> 0: (psi(a + 1) - y) / a, however small x is.
  for (const double a : {0.001, 0.3, 7.0}) {
    for (const double y : {-50.0, -800.0, -1e4, -1e100}) {
      CHECK(relative_error(log_gamma_draw_derivative(a, y), (special::digamma(a + 1) - y) / a) <= 1e-14);
    }
  }
  // x -> infinity: (y - psi(a)) / x, also where e^y overflows.
  CHECK(relative_error(log_gamma_draw_derivative(2.0, 69.0),
                       (69.0 - special::digamma(2.0)) * std::exp(-69.0)) <= 1e-13);
  CHECK(relative_error(log_gamma_draw_derivative(2.0, 70.0),
                       (70.0 - special::digamma(2.0)) * std::exp(-70.0)) <= 1e-13);
  CHECK(log_gamma_draw_derivative(2.0, 1000.0) == 0.0);
  // The largest shapes: a D -> 1 at the median.
  CHECK(std::fabs(1e7 * log_gamma_draw_derivative(1e7, std::log(1e7)) - 1.0) < 1e-6);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double a : {0.0, -1.0, 1.1e7, kInfinity, nan})
    CHECK(std::isnan(log_gamma_draw_derivative(a, 0.0)));
  for (const double y : {kInfinity, -kInfinity, nan}) CHECK(std::isnan(log_gamma_draw_derivative(1.0, y)));
}

TEST_CASE("the two regimes of the derivative meet continuously") {
  for (const double a : {0.01, 0.3, 0.999, 1.0, 1.5, 5.0, 30.0, 1000.0}) {
    CAPTURE(a);
    const double seam = std::log(std::max(a, 1.0));
    const double below = special::log_gamma_draw_derivative(a, seam - 1e-14);
    const double above = special::log_gamma_draw_derivative(a, seam + 1e-14);
    CHECK(relative_error(below, above) <= 1e-12);
  }
}

TEST_CASE("inverse digamma agrees with high-precision values, and undoes digamma") {
  // Newton's method at 40 digits with mpmath.
  const double values[][2] = {{-1000, 0.0010005759024586176648}, {-30, 0.033924472499870105553},
                              {-2.22, 0.45229849651070550698},   {-1, 0.78500332537452066911},
                              {0, 1.4616321449683623413},        {1, 3.2031714683769310693},
                              {5, 148.91287835621885551},        {13, 442413.89200882632293}};
  for (const auto& value : values) {
    CAPTURE(value[0]);
    CHECK(relative_error(special::inverse_digamma(value[0]), value[1]) <= 1e-14);
  }
  for (double x = 1e-6; x < 1e6; x *= 1.7) {
    CAPTURE(x);
    CHECK(relative_error(special::inverse_digamma(special::digamma(x)), x) <= 1e-12);
  }
  CHECK(std::isnan(special::inverse_digamma(kInfinity)));
  CHECK(std::isnan(special::inverse_digamma(std::numeric_limits<double>::quiet_NaN())));
}
