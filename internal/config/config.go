// Package config fills a settings struct from, in rising precedence: its defaults, a TOML file,
// environment variables and command-line flags.
//
// The struct's `toml` tags name the keys. Each key section.key has the environment variable
// KALAMDB_SECTION_KEY and the flag --section.key; an `env` tag adds further variables (comma
// separated; NAME=h is one whose plain numbers are hours, NAME=s seconds), a `doc` tag is the flag's help, and `secret:"true"` keeps a value out of everything
// that is printed. `fileof:"other"` makes a key the name of a file that holds the key other of the same section. Unknown keys and values that do not parse are errors that name the place.
package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"

	"github.com/kalamdb/kalamdb-go/internal/dberr"
	"github.com/kalamdb/kalamdb-go/internal/secretfile"
)

// Prefix starts every environment variable.
const Prefix = "KALAMDB_"

// Duration is a time.Duration that files, variables and flags write as "300ms" or "24h".
type Duration time.Duration

// UnmarshalText reads Go's duration syntax.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// MarshalText writes Go's duration syntax.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Key is one setting.
type Key struct {
	// Name is section.key.
	Name   string
	Env    []string
	Doc    string
	Secret bool
	fileOf string // the key whose value is in the file this one names
	value  reflect.Value
}

// variables are the names in Env without their units.
func (k Key) variables() (names []string) {
	for _, e := range k.Env {
		name, _, _ := strings.Cut(e, "=")
		names = append(names, name)
	}
	return names
}

// Value formats the current value; a secret is shown as *** when set.
func (k Key) Value() string {
	if k.Secret && !k.value.IsZero() {
		return "***"
	}
	return format(k.value)
}

// Keys lists every setting of dst, a pointer to a struct of sections, by name.
func Keys(dst any) []Key {
	var out []Key
	collect(reflect.ValueOf(dst).Elem(), "", &out)
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

func collect(v reflect.Value, prefix string, out *[]Key) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			collect(v.Field(i), prefix, out) // its keys stand among ours, as in the file
			continue
		}
		name := f.Tag.Get("toml")
		if name == "-" {
			continue
		}
		if name == "" || !f.IsExported() {
			continue
		}
		full := prefix + name
		if f.Type.Kind() == reflect.Struct {
			collect(v.Field(i), full+".", out)
			continue
		}
		k := Key{Name: full, Doc: f.Tag.Get("doc"), Secret: f.Tag.Get("secret") == "true", value: v.Field(i)}
		if of := f.Tag.Get("fileof"); of != "" {
			k.fileOf = prefix + of
		}
		k.Env = append(k.Env, Prefix+strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(full)))
		if also := f.Tag.Get("env"); also != "" {
			k.Env = append(k.Env, strings.Split(also, ",")...)
		}
		*out = append(*out, k)
	}
}

// Source is where settings come from besides the defaults already in the struct.
type Source struct {
	// Args are the command line without the program's name; --config names the file.
	Args []string
	// LookupEnv is os.LookupEnv, or a test's.
	LookupEnv func(string) (string, bool)
	// File is read when --config and KALAMDB_CONFIG are absent and it exists; empty means none.
	File string
	// Others are sections of programs that share the file: what this one does not know in them is theirs.
	Others []string
	// Refused are sections of Others that would be a mistake of whoever starts this program.
	Refused []Refused
	// Warn is told what is no mistake but should be mended; nil means nobody is.
	Warn func(text string)
}

// Refused is a section whose presence in the file, or one of whose variables, ends the start.
type Refused struct {
	Section   string
	Variables []string
	Reason    string
}

// ErrVersion is returned when --version was asked for.
var ErrVersion = errors.New("the version was asked for")

// Load fills dst. It returns pflag.ErrHelp when --help was asked for, and ErrVersion.
func Load(dst any, src Source) error {
	if src.LookupEnv == nil {
		src.LookupEnv = os.LookupEnv
	}
	keys := Keys(dst)
	flags := pflag.NewFlagSet("kalamdb", pflag.ContinueOnError)
	file := flags.String("config", "", "TOML configuration file (variable "+Prefix+"CONFIG)")
	version := flags.Bool("version", false, "tell the version and end")
	given := map[string]*string{}
	for _, k := range keys {
		given[k.Name] = flags.String(k.Name, format(k.value), k.Doc+" (variable "+strings.Join(k.variables(), " or ")+")")
		if k.Secret {
			flags.Lookup(k.Name).DefValue = ""
		}
	}
	if err := flags.Parse(src.Args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return err
		}
		return dberr.New(dberr.InvalidArgument, "command line: %w", err)
	}
	if *version {
		return ErrVersion
	}
	if flags.NArg() > 0 {
		return dberr.New(dberr.InvalidArgument, "command line: %q is not a flag; see --help", flags.Arg(0))
	}
	if err := src.checkVariables(); err != nil {
		return err
	}
	if err := loadFile(dst, *file, src); err != nil {
		return err
	}
	for _, k := range keys {
		if err := loadEnv(k, src.LookupEnv); err != nil {
			return err
		}
		if flags.Changed(k.Name) {
			if err := set(k.value, *given[k.Name]); err != nil {
				return dberr.New(dberr.InvalidArgument, "flag --%s: %w", k.Name, err)
			}
		}
	}
	return src.readSecrets(keys)
}

// readSecrets fills the keys whose values are in files of their own.
func (s *Source) readSecrets(keys []Key) error {
	for _, file := range keys {
		path := format(file.value)
		if file.fileOf == "" || path == "" {
			continue
		}
		i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == file.fileOf })
		if i < 0 {
			return dberr.New(dberr.Internal, "%s is the file of %s, which is no setting", file.Name, file.fileOf)
		}
		if !keys[i].value.IsZero() {
			return dberr.New(dberr.InvalidArgument, "%s and %s are both set: remove one", keys[i].Name, file.Name)
		}
		value, exposed, err := secretfile.Given(path)
		if err != nil {
			return dberr.New(dberr.InvalidArgument, "%s: %w", file.Name, err)
		}
		if exposed && s.Warn != nil {
			s.Warn(fmt.Sprintf("everybody on this machine may read %s (%s): chmod 600", path, file.Name))
		}
		if err := set(keys[i].value, value); err != nil {
			return dberr.New(dberr.InvalidArgument, "%s: %w", file.Name, err)
		}
	}
	return nil
}

func loadFile(dst any, path string, src Source) error {
	required := path != ""
	if !required {
		path, required = src.LookupEnv(Prefix + "CONFIG")
	}
	if !required {
		path = src.File
	}
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) && !required {
		return nil
	}
	if err != nil {
		return dberr.New(dberr.InvalidArgument, "configuration file: %w", err)
	}
	defer f.Close()
	err = toml.NewDecoder(f).DisallowUnknownFields().Decode(dst)
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		if r, ok := src.refused(strict); ok {
			return dberr.New(dberr.InvalidArgument, "configuration file %s has a section [%s]: %s", path, r.Section, r.Reason)
		}
	}
	if strict != nil && src.allOthers(strict) {
		err = nil
	} else if strict != nil {
		return dberr.New(dberr.InvalidArgument, "configuration file %s has unknown keys:\n%s", path, strict.String())
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		return dberr.New(dberr.InvalidArgument, "configuration file %s:\n%s", path, bad.String())
	}
	if err != nil {
		return dberr.New(dberr.InvalidArgument, "configuration file %s: %w", path, err)
	}
	return nil
}

// checkVariables finds variables of refused sections.
func (s *Source) checkVariables() error {
	for _, r := range s.Refused {
		for _, name := range r.Variables {
			if v, ok := s.LookupEnv(name); ok && v != "" {
				return dberr.New(dberr.InvalidArgument, "variable %s is set: %s", name, r.Reason)
			}
		}
	}
	return nil
}

// refused finds an unknown key of a refused section.
func (s *Source) refused(unknown *toml.StrictMissingError) (Refused, bool) {
	for i := range unknown.Errors {
		for _, r := range s.Refused {
			if key := unknown.Errors[i].Key(); len(key) > 0 && key[0] == r.Section {
				return r, true
			}
		}
	}
	return Refused{}, false
}

// allOthers reports whether every unknown key is in a section of another program.
func (s *Source) allOthers(unknown *toml.StrictMissingError) bool {
	for i := range unknown.Errors {
		if key := unknown.Errors[i].Key(); len(key) == 0 || !slices.Contains(s.Others, key[0]) {
			return false
		}
	}
	return true
}

func loadEnv(k Key, lookup func(string) (string, bool)) error {
	for _, name := range k.Env {
		name, unit, _ := strings.Cut(name, "=")
		text, ok := lookup(name)
		if !ok || text == "" {
			continue // an empty variable counts as unset: compose files pass those
		}
		if err := set(k.value, text+unit); err != nil {
			return dberr.New(dberr.InvalidArgument, "variable %s: %w", name, err)
		}
		return nil
	}
	return nil
}

// set parses text into a field. Errors do not repeat the text: it may be a secret.
func set(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(interface{ UnmarshalText([]byte) error }); ok {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			return errors.New("not a duration such as 300ms, 15m or 24h")
		}
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("not true or false")
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return errors.New("not a whole number in range")
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return errors.New("not a whole number in range, zero or more")
		}
		v.SetUint(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return errors.New("not a number")
		}
		v.SetFloat(n)
	case reflect.Slice:
		var list []string
		for _, s := range strings.Split(text, ",") {
			if s = strings.TrimSpace(s); s != "" {
				list = append(list, s)
			}
		}
		v.Set(reflect.ValueOf(list))
	default:
		return fmt.Errorf("settings of kind %s are not supported", v.Kind())
	}
	return nil
}

func format(v reflect.Value) string {
	if m, ok := v.Interface().(interface{ MarshalText() ([]byte, error) }); ok {
		b, _ := m.MarshalText()
		return string(b)
	}
	if v.Kind() == reflect.Slice {
		return strings.Join(v.Interface().([]string), ",")
	}
	return fmt.Sprint(v.Interface())
}
