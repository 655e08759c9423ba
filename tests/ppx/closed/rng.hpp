class Rng {
public:
  explicit Rng(unsigned long seed);
  double flat();
  double expovariate(double rate);
  int pick(int count);
private:
  unsigned long state;
};
