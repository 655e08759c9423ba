! Draws through a procedure pointer to a C function, as event generators in Fortran do.
program pointer_fortran
  use iso_c_binding
  implicit none
  interface
    function drand48() bind(c)
      import :: c_double
      real(c_double) :: drand48
    end function
  end interface
  procedure(drand48), pointer :: source
  source => drand48
  print '(f12.9)', source() + source()
end program
