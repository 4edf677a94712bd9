package scaling

import (
	"errors"
	"math"
)

// Fit is the line y = Base + PerUnit · x through points by least squares.
type Fit struct {
	Base, PerUnit float64
	// Residual is the largest distance of a point from the line: how far to trust it.
	Residual float64
}

// FitLine needs two different x.
func FitLine(x, y []float64) (Fit, error) {
	if len(x) != len(y) || len(x) < 2 {
		return Fit{}, errors.New("a line needs two points")
	}
	var meanX, meanY float64
	for i := range x {
		meanX += x[i] / float64(len(x))
		meanY += y[i] / float64(len(x))
	}
	var across, along float64
	for i := range x {
		across += (x[i] - meanX) * (x[i] - meanX)
		along += (x[i] - meanX) * (y[i] - meanY)
	}
	if across == 0 {
		return Fit{}, errors.New("all points have the same x")
	}
	f := Fit{PerUnit: along / across}
	f.Base = meanY - f.PerUnit*meanX
	for i := range x {
		f.Residual = max(f.Residual, math.Abs(y[i]-f.Base-f.PerUnit*x[i]))
	}
	return f, nil
}
